"""Faster and less precise matrix products, if the processor has them: TF32 and bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch

_MATRIX_PRODUCTS = {"float32": "highest", "tf32": "high", "bf16": "medium"}
_passes_in_bf16: ContextVar[bool] = ContextVar("passes_in_bf16", default=False)


@contextmanager
def matrix_products(precision: str) -> Iterator[None]:
    """Sets the precision of ``capture``'s passes and of float32 matrix products, and restores it at the end.

    Args:
        precision: ``float32``; ``tf32``, which keeps 10 bits of the mantissa and has an effect on GPUs alone; or
            ``bf16``, which runs forward and backward passes in bfloat16 by autocast and allows other matrix products
            either of the two formats.
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
    """Returns the context in which ``capture`` runs a model's forward pass: autocast if ``bf16`` is set."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=_passes_in_bf16.get())
