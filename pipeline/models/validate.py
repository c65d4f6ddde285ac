"""Tries the model on a few rows before any work starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.attribution.model.unseen import unseen_gradients
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.data.encode import Encoding
    from pipeline.data.encoded import Rows


def check_model(model: nn.Module, encoding: Encoding, rows: Rows) -> None:
    """Try the model on a few encoded rows: what stops attribution later is said before any work.

    Raises:
        InputError: the model raises an error, or its output is not a tensor `[rows, encoding.outputs]`.
        AttributionError: attribution can't take the model, for instance because rows depend on the other rows of their
            batch.
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
