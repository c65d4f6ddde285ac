"""Names the batch on which a model's forward pass fails, in place of an error from deep inside torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.model.calls import Inputs, predict
from pipeline.attribution.model.modes import evaluation_mode
from pipeline.attribution.rows.repeated_batches import RepeatedBatches


@contextmanager
def refused_inputs_named(model: nn.Module, given: Sequence[RepeatedBatches]) -> Iterator[None]:
    """Replaces an error inside the context by an AttributionError that names a batch that the model can't take.

    If the model can take all batches, the error is raised unchanged. An AttributionError is never replaced.

    Args:
        model: the model.
        given: all batches that the model is called with inside the context.

    Raises:
        AttributionError: there was an error, and the model can't take one of the batches.
    """
    try:
        yield
    except AttributionError:
        raise
    except Exception as error:
        for batches in given:
            for place, (inputs, _) in enumerate(batches):
                said = _refusal(model, inputs)
                if said is not None:
                    raise AttributionError(
                        f"The model can't take batch {place} of {batches.name}, {_described(inputs)}: {said}",
                        "Give inputs of the shape and type that it was trained with.",
                    ) from error
        raise


def _refusal(model: nn.Module, inputs: Inputs) -> str | None:
    """Returns the first line of the error of the model's forward pass, or None if there is no error."""
    try:
        with evaluation_mode(model), torch.no_grad():
            predict(model, inputs)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".") + "."
    return None


def _described(inputs: Inputs) -> str:
    """Returns dtype and shape of the inputs, such as ``float32 [8, 3]``; of named inputs with their names."""
    if isinstance(inputs, Tensor):
        return f"{str(inputs.dtype).removeprefix('torch.')} {list(inputs.shape)}"
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {_described(value)}" for name, value in inputs.items())
    return type(inputs).__name__
