"""Writes files of tensors atomically."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pipeline.attribution.trajectory.weights import write_tensors
from pipeline.runs.directory import write_atomically


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors atomically to a safetensors file; the tensors may be views and share memory."""
    with write_atomically(path) as temporary:
        write_tensors(tensors, temporary)
