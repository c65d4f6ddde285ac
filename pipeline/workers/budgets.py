"""How many bytes a task may hold, as shares of `compute.memory_per_worker`.

They say how much is held at once and not what is computed. Budgets on which results depend, such as the rows of a
chunk or of a sample, are constants where they are used, so that a machine with more memory finds the same.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budgets:
    """Bytes.

    weights: of checkpoints kept between tasks. gradients: of rows held while checkpoints are visited. group: of batches
    held while checkpoints are visited, with what these share. queries: of dense gradients of single queries. filters:
    of queries' filters held at once.
    """

    weights: int
    gradients: int
    group: int
    queries: int
    filters: int


def budgets(memory_per_worker: int) -> Budgets:
    """What a worker with so many bytes can afford beside its libraries, its data and its model."""
    eighth = memory_per_worker // 8
    return Budgets(weights=eighth, gradients=eighth, group=eighth, queries=eighth, filters=2 * eighth)
