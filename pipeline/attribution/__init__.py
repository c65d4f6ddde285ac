"""Training data attribution for torch models: SOURCE and influence functions with EK-FAC curvature.

Needs torch and safetensors alone. Record a trajectory while training, load it, attribute:

    recorder = TrajectoryRecorder(model, optimizer, "trajectory/", steps=total_steps, train_rows=rows)
    for inputs, labels in loader:
        ...
        optimizer.step()
        recorder.step()

    scores = attribute(model, Trajectory.load("trajectory/"), train=train_batches, query=validation_batches)
    scores.self_influence, scores.harm      # nats; harm > 0: removing the row lowers the mean query loss

The method is that of Bae, Lin, Lorraine, Grosse, "Training Data Attribution via Approximate Unrolled
Differentiation" (arXiv 2405.12186).

The public names are loaded on first use, so that a file in here that needs no torch comes without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.attribution.names import *  # noqa: F403


def __getattr__(name: str) -> Any:
    names = import_module("pipeline.attribution.names")
    if name != "__all__" and name not in names.__all__:
        raise AttributeError(f"module 'pipeline.attribution' has no attribute {name!r}")
    return getattr(names, name)


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]
