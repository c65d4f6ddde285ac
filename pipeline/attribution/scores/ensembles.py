"""Scores averaged over several trainings, or over dropout masks of one.

One training's scores carry the noise of its own order and start; averaging over a few trainings from other seeds takes
much of it away. The cheap variant averages over dropout masks of one trained model (Deng et al., "Efficient Ensembles
Improve Training Data Attribution", arXiv 2405.17293): only scoring is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.scores.table import Scores

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def average(scores: Sequence[Scores]) -> Scores:
    """The mean of scores of the same rows and queries, member by member; what one of them lacks is None.

    ``scale`` is the mean of the scales, ``growth`` the largest.

    Raises:
        AttributionError: there are none, their rows, queries or methods differ, or only some have ``harm``.
    """
    if not scores:
        raise AttributionError("There are no scores to average.", "Give the scores of at least one training.")
    methods = sorted({each.method for each in scores})
    if len(methods) > 1:
        raise AttributionError(
            f"Scores of different methods can't be averaged: {', '.join(methods)}.",
            "Where unrolling fell back to SOURCE, leave those trainings out or use SOURCE for all.",
        )
    if len({each.harm is None for each in scores}) > 1:
        raise AttributionError(
            "Scores with and without harm can't be averaged.", "Attribute all with the same queries."
        )
    means: dict[str, Any] = {
        field.name: _mean(field.name, [getattr(each, field.name) for each in scores])
        for field in fields(Scores)
    }
    return Scores(**means)


def _mean(name: str, values: Sequence[Tensor | float | str | None]) -> Tensor | float | str | None:
    given = [value for value in values if value is not None]
    if len(given) < len(values):
        return None
    numbers = [value for value in given if isinstance(value, float)]
    if numbers:
        return max(numbers) if name == "growth" else sum(numbers) / len(numbers)
    tensors = [value for value in given if isinstance(value, Tensor)]
    if not tensors:
        return given[0]
    shapes = {tuple(each.shape) for each in tensors}
    if len(shapes) > 1:
        raise AttributionError(
            f"{name} has different shapes in the trainings: {', '.join(map(str, sorted(shapes)))}.",
            "Give the same rows and queries to all, with as many checkpoints.",
        )
    return torch.stack(tensors).mean(0)


@contextmanager
def dropout_masks(model: nn.Module, seed: int) -> Iterator[None]:
    """The model with one fixed mask in the place of every Dropout module, drawn by the seed, even in evaluation mode.

    A mask is the same for all rows, so that scores don't depend on batches: ``[features]`` along the last dimension,
    of Dropout1d to 3d along the channels. Dropout inside attention stays off.

        scores = []
        for seed in range(5):
            with dropout_masks(model, seed):
                scores.append(attribute(model, trajectory, train, query))
        average(scores)

    Raises:
        AttributionError: the model has no Dropout module with a probability between 0 and 1.
    """
    modules = [each for each in model.modules() if isinstance(each, _DROPOUTS) and 0 < each.p < 1]
    if not modules:
        raise AttributionError(
            "The model has no Dropout module to mask.", "Average over trainings from several seeds instead."
        )
    handles = [
        module.register_forward_hook(_Mask(seed * len(modules) + place))
        for place, module in enumerate(modules)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Mask:
    """A forward hook; the mask is drawn when the width is known."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        assert isinstance(module, _DROPOUTS)
        given = inputs[0]
        last = isinstance(module, nn.Dropout)
        width = given.shape[-1 if last else 1]
        generator = torch.Generator().manual_seed(self.seed)
        kept = (torch.rand(width, generator=generator) >= module.p).to(given) / (1 - module.p)
        return given * (kept if last else kept.view(-1, *[1] * (given.dim() - 2)))
