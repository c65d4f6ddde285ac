"""Memory budgets of a task, as shares of `compute.memory_per_worker`.

A budget limits how much is held at once and never changes a result. Limits that do change results, such as the rows of
a chunk or of a sample, are constants where they are used, so that a machine with more memory gives the same results.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budgets:
    """The most bytes that a task may hold of each kind.

    Attributes:
        weights: weights of checkpoints that are kept between tasks.
        gradients: gradients of rows that are held while a task goes through the checkpoints.
        group: batches that are held while a task goes through the checkpoints, and what these batches share.
        queries: dense gradients of single queries.
        filters: filters of queries that are held at once.
    """

    weights: int
    gradients: int
    group: int
    queries: int
    filters: int


def budgets(memory_per_worker: int) -> Budgets:
    """Budgets for a worker with `memory_per_worker` bytes; they leave room for libraries, data and model."""
    eighth = memory_per_worker // 8
    return Budgets(weights=eighth, gradients=eighth, group=eighth, queries=eighth, filters=2 * eighth)
