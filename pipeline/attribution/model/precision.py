"""Less precise and faster matrix products, where a processor has them: TF32 and bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import torch

_MATRIX_PRODUCTS = {"float32": "highest", "tf32": "high", "bf16": "medium"}
_passes_in_bf16: ContextVar[bool] = ContextVar("passes_in_bf16", default=False)


@contextmanager
def matrix_products(precision: str) -> Iterator[None]:
    """Forward and backward passes of ``capture``, and products of float32 matrices, in a precision meanwhile.

    Args:
        precision: ``float32``; ``tf32``: float32 numbers with 10 bits of mantissa, on GPUs alone; ``bf16``: the
            passes in bfloat16 by autocast, and other products in whatever of the two a processor has.
    """
    before = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    token = _passes_in_bf16.set(precision == "bf16")
    torch.set_float32_matmul_precision(_MATRIX_PRODUCTS[precision])
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(before)
        _passes_in_bf16.reset(token)


def passes(device: torch.device) -> AbstractContextManager[None]:
    """What ``capture`` runs a model's forward pass in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=_passes_in_bf16.get())
