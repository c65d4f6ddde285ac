"""Where the rows of a batch lie in what a layer gets, and whether rows depend on each other.

Most layers get inputs whose first dimension is the batch. Some get one input for all rows, as position embeddings do,
and some get a batch that was folded into another dimension. Which is which can't be told from one batch: a layer that
got 12 numbers in a batch of 12 rows may have got one for each row, or one for each position. So the model runs on two
and on three of the rows, and the sizes that change with the number of rows are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.model.calls import Inputs, repeated_rows

# (layer, module and block, the number of calls before in the forward pass) of a use of a layer.
UseKey = tuple[str, str, int]
_FEW, _MORE = 2, 3
# The largest difference that counts as none, as a share of the largest number.
_TOLERANCE = 1e-3
_NO_PLACE = "used in a way that has no place for the batch"
_WORKAROUND = "Give every covered layer inputs whose first dimension is the batch."


class Layout(Enum):
    """How the batch lies in the inputs of a layer."""

    ROWS = "the batch is a dimension"
    ONE = "the batch's dimension has the size 1, for all rows"
    SHARED = "there is no batch dimension, for all rows"
    FOLDED = "the first dimension has several positions of the first row, then those of the second row"
    TOWERS = "the first dimension has the first position of all rows, then the second position"


FOLDED = (Layout.FOLDED, Layout.TOWERS)


@dataclass(frozen=True)
class SeenUse:
    """What a forward pass showed of a use.

    Attributes:
        key: names the use.
        size: of the batch's dimension of the layer's inputs.
        batch: which dimension that is.
    """

    key: UseKey
    size: int
    batch: int


class Watched(Protocol):
    """A model whose layers are watched."""

    def run(self, inputs: Inputs, layouts: Mapping[UseKey, Layout]) -> tuple[Tensor, list[SeenUse]]:
        """Returns the outputs and the uses of layers, in their order."""

    def output_gradients(self, target: Tensor) -> list[Tensor | None]:
        """Returns the gradient of ``target`` with respect to the outputs of all uses of the last ``run``."""


def find_layouts(model: Watched, plain: Callable[[Inputs], Tensor], inputs: Inputs) -> dict[UseKey, Layout]:
    """Finds how the batch lies in every use of a layer; a use that isn't named has ``Layout.ROWS``.

    A model that takes batches of one size only can't be looked at: all its uses have ``Layout.ROWS``.

    Args:
        model: the watched model.
        plain: the same model without being watched.
        inputs: a batch.

    Raises:
        AttributionError: a layer's inputs have no place for the batch, or an output of the model depends on other rows
            of its batch.
    """
    few, more = (repeated_rows(inputs, count) for count in (_FEW, _MORE))
    try:
        with torch.no_grad():
            alone, beside = plain(few), plain(more)
    except AttributionError:
        raise
    except Exception:  # whatever a model raises that is built for one size of batches: it can't be looked at
        return {}
    if alone.shape[:1] != (_FEW,) or beside.shape[:1] != (_MORE,) or _apart(alone, beside[:_FEW]):
        raise AttributionError(
            "An output of the model changes with the other rows of its batch, or from call to call.",
            "Rows may not depend on each other: use LayerNorm or GroupNorm in place of statistics of the batch.",
        )
    layouts: dict[UseKey, Layout] = {}
    try:
        while found := _next_layouts(model.run(few, layouts)[1], model.run(more, layouts)[1], layouts):
            layouts |= found
        outputs, uses = model.run(more, layouts)
        same = outputs.shape == beside.shape and not _apart(outputs, beside)
    except AttributionError:
        raise
    except Exception as error:  # whatever the model raises for an input that has a batch now
        if not layouts:
            raise
        raise _no_place(next(iter(layouts)), _NO_PLACE) from error
    if not same:
        raise _no_place(next(iter(layouts)), _NO_PLACE)
    _check_order(model.output_gradients(outputs[0].sum()), uses, layouts)
    return layouts


def fits(use: SeenUse, known: Mapping[UseKey, Layout], rows: int) -> bool:
    """Returns whether the size of the batch's dimension is what the known layout makes it for a number of rows."""
    layout = known.get(use.key, Layout.ROWS)
    if layout in FOLDED:
        return use.size % rows == 0
    return layout is Layout.SHARED or use.size == (1 if layout is Layout.ONE else rows)


def check_fits(use: SeenUse, known: Mapping[UseKey, Layout], rows: int) -> None:
    """Raises AttributionError if ``fits`` is false."""
    if not fits(use, known, rows):
        raise _no_place(use.key, f"called with {use.size} rows in a batch of {rows} rows")


def _next_layouts(
    few: list[SeenUse], more: list[SeenUse], known: Mapping[UseKey, Layout]
) -> dict[UseKey, Layout]:
    """Returns the layouts of folded uses, and of the first use whose input is one for all rows.

    A layer after such a use gets another shape when the use has a batch, so one is decided at a time.
    """
    if [use.key for use in few] != [use.key for use in more]:
        key = next((b.key for a, b in zip(few, more, strict=False) if a.key != b.key), more[-1].key)
        raise _no_place(key, "called another number of times for another number of rows")
    found: dict[UseKey, Layout] = {}
    for two, three in zip(few, more, strict=True):
        sizes = (two.size, three.size)
        if two.key in known or sizes == (_FEW, _MORE):
            continue
        if two.size == three.size:
            found[two.key] = Layout.ONE if two.size == 1 else Layout.SHARED
            break
        if two.batch == 0 and two.size % _FEW == 0 and two.size // _FEW * _MORE == three.size:
            found[two.key] = Layout.FOLDED
        else:
            raise _no_place(
                two.key, f"called with {two.size} and {three.size} rows for batches of 2 and 3 rows"
            )
    return found


def _check_order(gradients: list[Tensor | None], uses: list[SeenUse], layouts: dict[UseKey, Layout]) -> None:
    """Checks where the first row lies in every use, and tells folded rows from towers.

    Args:
        gradients: of the first row's output, with respect to the outputs of all uses.
        uses: the uses.
        layouts: the layouts so far; towers are changed in place.
    """
    for use, gradient in zip(uses, gradients, strict=True):
        if gradient is None or not gradient.isfinite().all():
            continue
        seen = gradient.transpose(0, use.batch).flatten(1).abs().amax(1)
        inside = seen > _TOLERANCE * seen.max()
        count = len(inside) // _MORE
        if not inside[count:].any():
            continue
        others = torch.arange(len(inside), device=inside.device) % _MORE != 0
        if layouts.get(use.key) is not Layout.FOLDED or inside[others].any():
            raise _no_place(use.key, "called with the rows of the batch in another order")
        layouts[use.key] = Layout.TOWERS


def _no_place(key: UseKey, what: str) -> AttributionError:
    return AttributionError(
        f"Layer {key[0]!r} is {what}: gradients of single rows can't be read.", _WORKAROUND
    )


def _apart(first: Tensor, second: Tensor) -> bool:
    finite = second[second.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return not torch.allclose(first, second, rtol=0.0, atol=_TOLERANCE * largest + 1e-12, equal_nan=True)
