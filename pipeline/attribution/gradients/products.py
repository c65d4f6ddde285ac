"""Fast matrix products: rows are aligned, slices fit a cache, and symmetric results are computed by half.

A bias makes widths odd (785 = 784 + 1). A product whose rows don't start at a multiple of 64 bytes runs at two thirds
of the speed (measured). Matrices here may therefore be views of wider storage, such as ``[rows, 785]`` with a stride of
800.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Bytes of a slice that several operations read in turn: about the size of the cache of one core.
CACHE_BYTES = 1 << 20
# The rows that are summed in the values' own precision; the sums of such groups are added up in float64.
SUMMED_ROWS = 4096
# Columns of a block in a symmetric product: wide enough to be fast, narrow enough to skip most of the mirrored half.
_BLOCK = 192
# The storage of an aligned row is a multiple of so many numbers.
_ALIGNMENT = 16
# Dtypes whose rows are aligned. torch's bfloat16 product on the CPU reads beyond the rows of its left factor and
# multiplies what it reads by 0. NaN times 0 is NaN, so in bfloat16 no uninitialised memory may lie between rows.
_ALIGNED_DTYPES = (torch.float32, torch.float64)


def aligned_width(width: int) -> int:
    """Returns the numbers that an aligned row of ``width`` numbers takes in storage."""
    return -(-width // _ALIGNMENT) * _ALIGNMENT


def aligned_empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Returns an uninitialised tensor in the dtype and on the device of ``like``.

    Its rows are aligned if the dtype is float32 or float64.
    """
    if like.dtype not in _ALIGNED_DTYPES:
        return like.new_empty(*shape)
    return like.new_empty(*shape[:-1], aligned_width(shape[-1]))[..., : shape[-1]]


def aligned(values: Tensor) -> Tensor:
    """Returns the same values with rows as in ``aligned_empty``, and ``values`` itself if its rows are aligned."""
    if values.stride(-1) == 1 and values.stride(-2) % _ALIGNMENT == 0:
        return values
    return aligned_empty(values.shape, values).copy_(values)


def aligned_cat(parts: Sequence[Tensor]) -> Tensor:
    """Returns tensors ``[batch, positions, size]`` concatenated along the positions, with aligned rows."""
    joined = aligned_empty((len(parts[0]), sum(part.shape[1] for part in parts), parts[0].shape[2]), parts[0])
    start = 0
    for part in parts:
        joined[:, start : start + part.shape[1]] = part
        start += part.shape[1]
    return joined


def product(left: Tensor, right: Tensor) -> Tensor:
    """Returns ``left`` ``[…, inner]`` times ``right`` ``[inner, columns]``: ``[…, columns]`` with aligned rows."""
    found = aligned_empty((*left.shape[:-1], right.shape[1]), left)
    torch.mm(left.flatten(0, -2), right, out=found.flatten(0, -2))
    return found


def same_values(first: Tensor, second: Tensor) -> bool:
    """Returns whether two tensors are equal. It is quick if the tensors differ in the first row.

    The host waits for the tensors' device.
    """
    if first is second:
        return True
    if first.shape != second.shape or (answers_at_once(first) and not torch.equal(first[:1], second[:1])):
        return False
    return torch.equal(first, second)


def answers_at_once(values: Tensor) -> bool:
    """Returns whether a question about values costs no more than reading them, as on the CPU.

    A GPU works behind the host. To ask about a value there, the host waits until all earlier work is done.
    """
    return values.device.type == "cpu"


def inner_products(first: Tensor, second: Tensor) -> Tensor:
    """Returns Σ first ∘ second over all dimensions but the first: ``[batch]``.

    The elementwise product is formed in slices that stay in the cache of one core.
    """
    found = [first.new_zeros(0)]
    for rows in slices_of(len(first), first[:1].nbytes, CACHE_BYTES):
        found.append((first[rows] * second[rows]).flatten(1).sum(1))
    return torch.cat(found)


def slices_of(length: int, item_bytes: int, budget: int) -> Iterator[slice]:
    """Yields slices of ``length`` items. Each stays within ``budget`` bytes, but has at least one item."""
    step = max(1, budget // max(1, item_bytes))
    for start in range(0, length, step):
        yield slice(start, start + step)


def covariance(values: Tensor, widest: int | None = None) -> Tensor:
    """Returns Σ v vᵀ over the rows v of ``values`` ``[rows, size]``: float64 ``[size, size]``.

    Args:
        values: the rows.
        widest: vectors with more numbers than this give the diagonal alone, ``[size]``; None gives all.
    """
    if widest is not None and values.shape[1] > widest:
        return _sum_of_squares(values)
    total = torch.zeros(values.shape[1], values.shape[1], dtype=torch.float64, device=values.device)
    add_upper(total, values)
    return mirrored(total)


def _sum_of_squares(values: Tensor) -> Tensor:
    total = torch.zeros(values.shape[1], dtype=torch.float64, device=values.device)
    for rows in slices_of(len(values), values.shape[1] * total.element_size(), 4 * CACHE_BYTES):
        total += values[rows].double().square().sum(0)
    return total


def add_upper(total: Tensor, values: Tensor) -> None:
    """Adds Σ v vᵀ over the rows v of ``values`` to the upper triangle of ``total``.

    The products of ``SUMMED_ROWS`` rows are summed in the dtype of ``values``, and these sums in float64. The blocks
    below the diagonal mirror those above and are left out.

    Args:
        total: float64 ``[size, size]``, changed in place.
        values: ``[rows, size]``.
    """
    size = values.shape[1]
    for first in range(0, len(values), SUMMED_ROWS):
        part = values[first : first + SUMMED_ROWS]
        for start in range(0, size, _BLOCK):
            stop = start + _BLOCK
            total[start:stop, start:] += product(part[:, start:stop].T, part[:, start:])


def mirrored(total: Tensor) -> Tensor:
    """Fills in the blocks below the diagonal of ``total``, a sum from ``add_upper``, in place; returns ``total``."""
    for start in range(_BLOCK, len(total), _BLOCK):
        total[start:, start - _BLOCK : start] = total[start - _BLOCK : start, start:].T
    return total
