"""The features of the rows for the judges: read once, and kept in blocks by kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file, save_file
from scipy import sparse

from pipeline.data.encoded import EncodedData, Rows
from pipeline.data.evidence.collect import evidence_path
from pipeline.data.source_batches import source_batches
from pipeline.features.dense import DenseEncoder
from pipeline.panel.ngrams import HASHES, text_blocks
from pipeline.runs.directory import write_atomically
from pipeline.workers.worker import run_data

WORK = Path("panel/work")
"""The folder in the run directory for files that are only needed while the stage runs."""
EVIDENCE = WORK / "evidence"
"""The folder with what models of the user's own say (`data.evidence`)."""
PIECE_ROWS = 2048
"""The features of so many rows are read and judged at a time."""
TASKS = 32
"""Upper limit of tasks for the features of a role; each task streams through the files of its rows."""
KINDS = ("texts", "columns", "ordinals", "wide", "own")


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a role, in the order of the encoded rows."""

    role: str
    first: int
    rows: int

    @property
    def place(self) -> slice:
        return slice(self.first, self.first + self.rows)

    def path(self, run_path: Path) -> Path:
        return run_path / WORK / "features" / f"{self.role}-{self.first:09d}.safetensors"


@dataclass(frozen=True)
class Blocks:
    """Features of some rows; in each kind, the key of a matrix is `column/part`.

    Attributes:
        texts: float32 `[rows, HASHES]`, sublinear counts of n-grams.
        columns: float32 `[rows, width]`, scaled numbers, booleans, one-hot categories, flags of missing values.
        ordinals: float32 `[rows, width]`, the same columns for trees: a category is one number, its index.
        wide: float32 `[rows, width]`, pixels in 0..1 and lists of numbers.
        own: float32 `[rows, width]`, the embeddings of a model of the user's own (`data.embeddings`), if there are any.
    """

    texts: dict[str, sparse.csr_matrix]
    columns: dict[str, np.ndarray]
    ordinals: dict[str, np.ndarray]
    wide: dict[str, np.ndarray]
    own: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        parts = [*self.texts.values(), *self.columns.values(), *self.wide.values()]
        return int(parts[0].shape[0])

    def select(self, which: np.ndarray) -> Blocks:
        """The features of some rows; `which` is a mask or an array of places."""
        return change([self], lambda parts: parts[0][which])

    def without(self, names: Sequence[str]) -> Blocks:
        """The features without some columns of the source; embeddings may tell these columns, so they go too."""
        if not names:
            return self
        kept = {
            kind: {
                key: part for key, part in getattr(self, kind).items() if key.rpartition("/")[0] not in names
            }
            for kind in KINDS
            if kind != "own"
        }
        return Blocks(**kept)

    @classmethod
    def concatenate(cls, parts: Sequence[Blocks]) -> Blocks:
        return parts[0] if len(parts) == 1 else change(parts, _stacked)


def change(parts: Sequence[Blocks], how: Callable[[list[Any]], Any]) -> Blocks:
    """Blocks in which `how` has made every matrix from the matrices of the same key in all parts."""
    made = {
        kind: {key: how([getattr(part, kind)[key] for part in parts]) for key in getattr(parts[0], kind)}
        for kind in KINDS
    }
    return Blocks(**made)


def _stacked(matrices: list[Any]) -> Any:
    return sparse.vstack(matrices, "csr") if sparse.issparse(matrices[0]) else np.concatenate(matrices)


def pieces(data: EncodedData, role: str) -> list[Piece]:
    """All rows of a role in pieces of PIECE_ROWS rows."""
    rows = data.count(role)
    return [Piece(role, first, min(PIECE_ROWS, rows - first)) for first in range(0, rows, PIECE_ROWS)]


def piece_groups(found: Sequence[Piece]) -> list[list[Piece]]:
    """Groups of consecutive pieces, at most TASKS groups."""
    size = max(1, -(-len(found) // TASKS))
    return [list(found[start : start + size]) for start in range(0, len(found), size)]


def write_features(run_path: Path, group: Sequence[Piece]) -> None:
    """Write the features of consecutive pieces of one role (a task for a worker)."""
    waiting = [place for place, piece in enumerate(group) if not piece.path(run_path).exists()]
    if not waiting:
        return
    data, todo = run_data(run_path), group[waiting[0] :]
    columns = _source_columns(run_path)
    sources = source_batches(run_path, todo[0].role, todo[0].first, [piece.rows for piece in todo], columns)
    for piece, source in zip(todo, sources):
        if not piece.path(run_path).exists():
            blocks = _make_blocks(data, _encoded_rows(data, piece), source)
            blocks.own.update(_embeddings(run_path, piece))
            _save_blocks(piece.path(run_path), blocks)


def _embeddings(run_path: Path, piece: Piece) -> dict[str, np.ndarray]:
    path = evidence_path(run_path / EVIDENCE, "embeddings", piece.role)
    return {"embeddings": np.load(path, mmap_mode="r")[piece.place]} if path.exists() else {}


def _encoded_rows(data: EncodedData, piece: Piece) -> Rows:
    parts = []
    for chunk in data.chunks(piece.role):
        start, stop = max(piece.first, chunk.first), min(piece.place.stop, chunk.first + chunk.rows)
        if start < stop:
            parts.append(data.load(chunk).select(slice(start - chunk.first, stop - chunk.first)))
    return Rows.concatenate(parts)


def _source_columns(run_path: Path) -> list[str]:
    """The columns that judges need from the source: texts, and numbers that may be missing."""
    return [each.column for each in run_data(run_path).encoding.features if each.read_again]


def _make_blocks(data: EncodedData, rows: Rows, source: dict[str, pa.Array]) -> Blocks:
    """Make blocks from encoded rows and the source columns of the same rows."""
    blocks = Blocks({}, {}, {}, {})
    for encoder, part in data.encoding.parts(data.encoding.by_name(rows.inputs)):
        name = encoder.column
        if "texts" in encoder.judged_as:
            texts = text_blocks([encoder.words(value) for value in source[name]])
            blocks.texts.update({f"{name}/{piece}": matrix for piece, matrix in texts.items()})
        if encoder.judged_as == "texts":
            continue
        if isinstance(encoder, DenseEncoder) and encoder.judged_as == "columns":
            _add_columns(blocks, encoder, part, source.get(name))
        else:
            what = "pixels" if encoder.judged_as == "pixels" else "list"
            blocks.wide[f"{name}/{what}"] = encoder.plain_numbers(part, source.get(name))
    return blocks


def _add_columns(blocks: Blocks, encoder: DenseEncoder, part: np.ndarray, source: pa.Array | None) -> None:
    name = encoder.column
    blocks.columns[f"{name}/scaled"] = part
    blocks.ordinals[f"{name}/value"] = encoder.ordinals(part)
    if source is not None:
        missing = encoder.unusable(source).astype(np.float32)
        blocks.columns[f"{name}/missing"] = blocks.ordinals[f"{name}/missing"] = missing


def _save_blocks(path: Path, blocks: Blocks) -> None:
    tensors: dict[str, np.ndarray] = {}
    for key, matrix in blocks.texts.items():
        for part in ("data", "indices", "indptr"):
            tensors[f"texts/{key}/{part}"] = np.ascontiguousarray(getattr(matrix, part))
    for kind in KINDS[1:]:
        tensors |= {
            f"{kind}/{key}": np.ascontiguousarray(part) for key, part in getattr(blocks, kind).items()
        }
    with write_atomically(path) as temporary:
        save_file(tensors, temporary)


def load_blocks(run_path: Path, piece: Piece, without: Sequence[str] = ()) -> Blocks:
    """Load the features of a piece, without some columns of the source."""
    made: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    sparse_parts: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in load_file(piece.path(run_path)).items():
        kind, _, key = name.partition("/")
        if kind == "texts":
            key, _, part = key.rpartition("/")
            sparse_parts.setdefault(key, {})[part] = tensor
        else:
            made[kind][key] = tensor
    for key, parts in sparse_parts.items():
        shape = (len(parts["indptr"]) - 1, HASHES)
        made["texts"][key] = sparse.csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape)
    return Blocks(**made).without(without)
