"""Calls of a model: named inputs become keyword arguments where its forward has them, and an output is one tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.attribution.errors import AttributionError

Inputs: TypeAlias = Tensor | Mapping[str, Tensor]
# The output that is taken of a model that returns several, such as the models of Hugging Face.
_LOGITS = "logits"
_OUTPUT_HINT = "Wrap it in a module whose forward returns the outputs alone, such as the logits."


def predict(model: nn.Module, inputs: Inputs, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """Returns the outputs of a model for a batch.

    Args:
        model: the model, in the mode in which it is to run.
        inputs: one tensor, or named tensors. Named tensors are keyword arguments if ``forward`` has parameters of all
            their names, or none with names but ``**kwargs``. Else they are one dictionary.
        parameters: parameter -> the weights in place of the model's own.

    Returns:
        The model's tensor. Of a model that returns several things by name, it is the one that is called ``logits``.

    Raises:
        AttributionError: the model returns no tensor.
    """
    arguments, named = call_arguments(model, inputs)
    if parameters is None:
        return the_tensor(model(*arguments, **named))
    return the_tensor(functional_call(model, dict(parameters), arguments, named))


def call_arguments(model: nn.Module, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
    """Returns the arguments and keyword arguments with which the model is called."""
    if isinstance(inputs, Mapping):
        named = _parameters(model.forward)
        if set(inputs) <= named or (not named and _hands_on_names(model.forward)):
            return (), dict(inputs)
    return (inputs,), {}


def named_inputs(model: nn.Module, inputs: object) -> object:
    """Returns several inputs, a tuple or list, under the names of ``forward``'s parameters; others as they are.

    Raises:
        AttributionError: ``forward`` has fewer named parameters.
    """
    if not isinstance(inputs, tuple | list):
        return inputs
    named = inspect.signature(model.forward).parameters.values()
    names = [each.name for each in named if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    if len(names) < len(inputs):
        raise AttributionError(
            f"There are {len(inputs)} inputs, but forward has {len(names)} parameters with names.",
            "Give a dictionary, or wrap the model in a module whose forward names its inputs.",
        )
    return dict(zip(names, inputs, strict=False))


def _parameters(function: Callable[..., Any]) -> set[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for name, each in inspect.signature(function).parameters.items() if each.kind in kinds}


def _hands_on_names(function: Callable[..., Any]) -> bool:
    """Returns whether a function takes keyword arguments of any name, as the models of peft do."""
    return any(
        each.kind is inspect.Parameter.VAR_KEYWORD for each in inspect.signature(function).parameters.values()
    )


def the_tensor(outputs: object) -> Tensor:
    """Returns the tensor of what a model returned.

    Raises:
        AttributionError: it is no tensor, and nothing in it is called ``logits``.
    """
    found = outputs.get(_LOGITS) if isinstance(outputs, Mapping) else getattr(outputs, _LOGITS, None)
    for each in (outputs, found):
        if isinstance(each, Tensor):
            return each
    raise AttributionError(f"The model returns {type(outputs).__name__} and not a tensor.", _OUTPUT_HINT)


def row_count(inputs: Inputs) -> int:
    """Returns the number of rows of a batch."""
    return len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))


def select_inputs(inputs: Inputs, rows: Tensor | slice) -> Inputs:
    """Returns the model's inputs for some rows, given by their places, a mask or a slice."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return {name: value[rows] for name, value in inputs.items()}


def repeated_rows(inputs: Inputs, count: int) -> Inputs:
    """Returns ``count`` rows, the first ones; they begin anew where there are fewer."""
    return select_inputs(inputs, torch.arange(count) % row_count(inputs))
