"""Tensors on disk, whole or absent."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from pipeline.runs.directory import write_atomically


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors atomically; views and shared storage are copied first."""
    with write_atomically(path) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary
        )
