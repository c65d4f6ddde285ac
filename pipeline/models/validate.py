"""Tries the model on a few rows before any work starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.attribution.model.modes import evaluation_mode
from pipeline.attribution.model.unseen import unseen_gradients
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.attribution.model.capture import Inputs
    from pipeline.data.encode import Encoding
    from pipeline.data.encoded import Rows

CLOSE = 1e-3
"""Of the largest output: so far, outputs of one row may differ between batches by rounding."""


def check_model(model: nn.Module, encoding: Encoding, rows: Rows) -> None:
    """Try the model on a few encoded rows: what stops attribution later is said before any work.

    Raises:
        InputError: the model raises an error, its output is not a tensor `[rows, encoding.outputs]`, or its output for
            a row depends on the other rows of the batch.
        AttributionError: attribution can't take the model, for instance because a layer folds the batch into another
            dimension.
    """
    inputs = rows.inputs
    shapes = {k: list(v.shape) for k, v in inputs.items()} if isinstance(inputs, dict) else list(inputs.shape)
    was_training = model.training
    try:
        with torch.no_grad():
            outputs = model.eval()(inputs)
    except Exception as error:  # whatever the user's forward raises
        raise InputError(
            f"the model can't take the encoded rows (shape {shapes}): {type(error).__name__}: {error}",
            "Make its forward accept this input; docs/reference/features.md says what each kind of feature becomes.",
        ) from error
    finally:
        model.train(was_training)
    expected = (len(rows), encoding.outputs)
    got = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if got != expected:
        what = f"{encoding.outputs} classes" if encoding.task != "regression" else "one target"
        raise InputError(
            f"the model's output is {got} for {len(rows)} rows, but the labels have {what}: {expected} is needed",
            "Set the width of the model's last layer to the number of classes (1 for regression).",
        )
    unseen_gradients(model, inputs)  # for its errors
    _check_rows_are_apart(model, inputs, outputs)


def _check_rows_are_apart(model: nn.Module, inputs: Inputs, outputs: torch.Tensor) -> None:
    """Raises InputError where the first rows alone get another output than among the others."""
    few = max(1, len(outputs) // 2)
    first = slice(0, few)
    some = (
        inputs[first] if isinstance(inputs, torch.Tensor) else {n: each[first] for n, each in inputs.items()}
    )
    with torch.no_grad(), evaluation_mode(model):
        alone = model(some)
    scale = outputs.abs().max().item()
    difference = (alone - outputs[:few]).abs().max().item()
    if difference > CLOSE * max(scale, 1.0):
        raise InputError(
            f"the model's output for a row depends on the other rows of its batch: it differs by {difference:.2g} "
            f"between batches of {few} and {len(outputs)} rows",
            "Attribution judges every row by itself: use statistics of each row (LayerNorm, GroupNorm) or running "
            "ones (BatchNorm), and nothing random in evaluation mode.",
        )
