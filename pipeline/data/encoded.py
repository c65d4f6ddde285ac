"""Reading the encoded rows of a run: chunk by chunk, or a whole role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.encode import ENCODING, Encoding
from pipeline.features.encoder import RESERVED
from pipeline.runs.directory import read_json, write_json

FOLDER = "encoded"
CHUNKS = "chunks.json"


@dataclass(frozen=True)
class Chunk:
    """A run of rows of one shard with one role."""

    id: str
    role: str
    rows: int
    first: int  # place of its first row among the role's rows

    def holds(self, places: np.ndarray) -> np.ndarray:
        """Which of some places among the role's rows lie in this chunk: indices into `places`, int64."""
        return np.flatnonzero((places >= self.first) & (places < self.first + self.rows))


@dataclass(frozen=True)
class Rows:
    """Encoded rows; all tensors are [n, …]. A single kind of input is a tensor, several are a dict."""

    inputs: Tensor | dict[str, Tensor]
    labels: Tensor  # int64 class indices, float32 standardised targets or uint8 sets [n, labels]
    row_ids: Tensor  # int64, hash of the row key
    weights: Tensor | None = None  # float32, mean 1 over train

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, which: Any) -> Rows:
        """The rows of an index tensor, a mask or a slice."""
        return _combine([self], lambda tensors: tensors[0][which])

    def to(self, device: torch.device) -> Rows:
        """The rows on a device; a copy to a GPU goes on while the caller does."""
        if device.type != "cuda" or self.labels.device == device:
            return _combine([self], lambda tensors: tensors[0].to(device))
        return _combine([self], lambda tensors: tensors[0].pin_memory().to(device, non_blocking=True))

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, in order; at least one part."""
        return _combine(parts, lambda tensors: torch.cat(list(tensors)))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Rows:
        """Rows from the tensors of a chunk file, by name."""
        inputs = {name: tensors[name] for name in sorted(tensors) if name not in RESERVED}
        return cls(
            next(iter(inputs.values())) if len(inputs) == 1 else inputs,
            tensors["labels"],
            tensors["row_ids"],
            tensors.get("weights"),
        )


def _combine(parts: Sequence[Rows], change: Callable[[Sequence[Tensor]], Tensor]) -> Rows:
    """Rows whose every tensor is made from the same tensor of all parts."""
    first = parts[0].inputs
    if isinstance(first, dict):
        # parts of one dataset have the same kinds of input
        inputs: Any = {name: change([part.inputs[name] for part in parts]) for name in first}  # type: ignore[index]
    else:
        inputs = change([part.inputs for part in parts])  # type: ignore[misc]
    weights = [part.weights for part in parts if part.weights is not None]
    return Rows(
        inputs,
        change([part.labels for part in parts]),
        change([part.row_ids for part in parts]),
        change(weights) if weights else None,
    )


class EncodedData:
    """The encoded rows of a run, in the order of the catalog within each role."""

    def __init__(self, run_path: Path, encoding: Encoding, chunks: list[Chunk], row_bytes: int):
        self.run_path = run_path
        self.encoding = encoding
        self._chunks = chunks
        self._row_bytes = row_bytes

    @classmethod
    def open(cls, run_path: Path) -> EncodedData:
        tree = read_json(run_path / FOLDER / CHUNKS)
        chunks = [Chunk(**entry) for entry in tree["chunks"]]
        return cls(run_path, Encoding.load(run_path / ENCODING), chunks, tree["row_bytes"])

    def chunks(self, role: str) -> list[Chunk]:
        return [chunk for chunk in self._chunks if chunk.role == role]

    def count(self, role: str) -> int:
        return sum(chunk.rows for chunk in self.chunks(role))

    def nbytes(self, role: str) -> int:
        """Bytes that all rows of a role take in memory."""
        return self.count(role) * self._row_bytes

    def load(self, chunk: Chunk) -> Rows:
        """The rows of a chunk; the tensors are mapped from the file, not read ahead."""
        return Rows.from_tensors(load_file(chunk_path(self.run_path, chunk.id)))

    def load_role(self, role: str) -> Rows:
        """All rows of a role, in memory. Raises ValueError when the role has none."""
        chunks = self.chunks(role)
        if not chunks:
            raise ValueError(f"the run has no {role} rows")
        return Rows.concatenate([self.load(chunk) for chunk in chunks])


def chunk_path(run_path: Path, chunk_id: str) -> Path:
    return run_path / FOLDER / f"{chunk_id}.safetensors"


def save_chunks(run_path: Path, chunks: list[Chunk], row_bytes: int) -> None:
    """Write the list of chunks; it comes last, so a run that has it has all chunks."""
    tree = {"row_bytes": row_bytes, "chunks": [asdict(chunk) for chunk in chunks]}
    write_json(run_path / FOLDER / CHUNKS, tree)
