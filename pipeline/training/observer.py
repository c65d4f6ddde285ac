"""What the training loop tells those who watch it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Observer(Protocol):
    """Something that watches a training, such as a recorder of checkpoints."""

    def after_step(self, step: int) -> None:
        """Called when `step` steps are done."""

    def state_tensors(self) -> dict[str, Tensor]:
        """What the observer must get back to go on after an interruption."""

    def restore(self, tensors: dict[str, Tensor]) -> None: ...
