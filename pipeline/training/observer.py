"""The interface of observers, which the training loop calls after every step."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Observer(Protocol):
    """Follows a training step by step, such as a recorder of checkpoints."""

    def after_step(self, step: int) -> None:
        """Called after every optimizer step; `step` steps are done."""

    def state_tensors(self) -> dict[str, Tensor]:
        """The tensors that `restore` needs after an interruption."""

    def restore(self, tensors: dict[str, Tensor]) -> None: ...
