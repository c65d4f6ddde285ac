"""Random numbers that depend on (seed, checkpoint, row) alone, so that scores don't depend on batches or workers.

The generator is counter-based: it applies the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) to the row's
identity. Integer arithmetic in ``torch.int64`` wraps around, so it is arithmetic modulo 2**64.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """Returns the int64 with the same 64 bits as ``value``."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Returns an int64 tensor after a logical (zero-filling) right shift."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def mix(value: Tensor) -> Tensor:
    """Applies a bijection of 64-bit integers whose output bits look random, to int64 of any shape."""
    value = value + _signed(_GOLDEN)
    value = (value ^ _shift_right(value, 30)) * _signed(_FIRST)
    value = (value ^ _shift_right(value, 27)) * _signed(_SECOND)
    return value ^ _shift_right(value, 31)


def row_uniforms(row_ids: Tensor, *, seed: int, checkpoint: int) -> Tensor:
    """Returns one uniform random number in [0, 1) per row.

    Args:
        row_ids: int64 ``[batch]``, the stable identity of each row.
        seed: the run's seed.
        checkpoint: the index of the checkpoint in its trajectory.

    Returns:
        float64 ``[batch]`` with 53 random bits each.
    """
    stream = mix(mix(torch.tensor(_signed(seed), dtype=torch.int64)) + checkpoint)
    hashed = mix(mix(row_ids.to(torch.int64)) ^ stream.to(row_ids.device))
    return _shift_right(hashed, 11).to(torch.float64) * 2.0**-53


def random_signs(uniforms: Tensor, columns: int, first: int = 0) -> Tensor:
    """Returns independent random signs, +1 or −1, derived from one uniform random number per row.

    Args:
        uniforms: float64 ``[batch]`` in [0, 1).
        columns: how many signs each row gets.
        first: the place of the first of these signs among all signs of a row.

    Returns:
        float64 ``[batch, columns]``.
    """
    return 1.0 - 2.0 * (_hashes(uniforms, columns, first) & 1).to(torch.float64)


def _random_uniforms(uniforms: Tensor, columns: int) -> Tensor:
    """Returns independent uniform random numbers, derived from one uniform random number per row.

    Args:
        uniforms: float64 ``[batch]`` in [0, 1).
        columns: how many numbers each row gets.

    Returns:
        float64 ``[batch, columns]`` in [0, 1).
    """
    return _shift_right(_hashes(uniforms, columns), 11).to(torch.float64) * 2.0**-53


def _hashes(uniforms: Tensor, columns: int, first: int = 0) -> Tensor:
    """Returns random bits that depend on the row's random number and on the column: int64 ``[batch, columns]``."""
    rows = (uniforms * 2.0**53).to(torch.int64)
    index = torch.arange(first, first + columns, dtype=torch.int64, device=uniforms.device)
    return mix(mix(rows)[:, None] + index)
