"""Slices of the rows that a person names: the values of some columns of the source, as codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.numpy import load_file, save_file

from pipeline.config import ROLES, Data
from pipeline.data.files import Shard, read_runs
from pipeline.data.survey import ShardRows, Survey
from pipeline.errors import InputError
from pipeline.features.arrow import is_numeric, joined, numbers, plain
from pipeline.runs.directory import read_json, write_atomically, write_json

MOST_VALUES = 32
"""Of a column; what else there is counts as OTHER, and numbers with more values go into BINS."""
BINS = 8
MISSING, OTHER = "missing", "other"

DEFINITIONS, CODES = Path("encoded/slices.json"), Path("encoded/slices.safetensors")


@dataclass(frozen=True)
class SliceColumn:
    """A column cut into slices: by its values as text, or, where `edges` are given, between them.

    values: what the slices are called, by their codes; the last one is OTHER.
    """

    name: str
    values: list[str]
    edges: list[float] | None = None

    def codes(self, column: pa.Array) -> np.ndarray:
        """uint8 `[rows]`."""
        if self.edges is not None:
            found = numbers(column)
            codes = np.searchsorted(np.array(self.edges), found, side="left")
            return np.where(np.isnan(found), len(self.values) - 1, codes).astype(np.uint8)
        index = pc.index_in(as_text(column), value_set=pa.array(self.values[:-1], pa.string()))
        return pc.fill_null(index, len(self.values) - 1).to_numpy(zero_copy_only=False).astype(np.uint8)


def as_text(column: pa.Array) -> pa.Array:
    return pc.fill_null(plain(column).cast(pa.string()), MISSING)


def fit_slices(name: str, column: pa.Array) -> SliceColumn:
    """The slices of a column by the validation rows' values."""
    text = as_text(column)
    counted = sorted(pc.value_counts(text).to_pylist(), key=lambda entry: (-entry["counts"], entry["values"]))
    if len(counted) > MOST_VALUES and is_numeric(plain(column).type):
        return _fit_bins(name, numbers(column))
    kept = counted if len(counted) <= MOST_VALUES else counted[: MOST_VALUES - 1]
    return SliceColumn(name, [*sorted(entry["values"] for entry in kept), OTHER])


def _fit_bins(name: str, values: np.ndarray) -> SliceColumn:
    """Bins of about equally many finite values, each up to and with its edge; missing ones are OTHER."""
    finite = values[np.isfinite(values)]
    edges = np.unique(np.quantile(finite, np.arange(1, BINS) / BINS)).tolist()
    shown = [f"{edge:.6g}" for edge in edges]
    between = [f"{low} – {high}" for low, high in pairwise(shown)]
    return SliceColumn(name, [f"≤ {shown[0]}", *between, f"> {shown[-1]}", OTHER], edges)


def check_slice_types(shards: Sequence[Shard], data: Data) -> None:
    """Raises InputError for a column of `data.slices` that has no plain values."""
    for name in data.slices:
        kind = shards[0].type_of(name)
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise InputError(
                f"data.slices: column {name!r} is {kind}, which has no values to tell rows apart by",
                "Name columns of strings, numbers, booleans or dates.",
            )


def check_slice_rows(data: Data, counts: dict[str, int]) -> None:
    """Raises InputError for slices without validation rows, which are what is cut."""
    if data.slices and not counts["validation"]:
        raise InputError(
            "data.slices: there are no validation rows to cut into slices",
            "Give data.validation, or data.split; or leave data.slices out.",
        )


def write_slices(run_path: Path, survey: Survey, chunk_rows: int) -> None:
    """Write the slices of every row beside the encoded rows, in their order; nothing where none are named."""
    names = survey.data.slices
    if not names:
        return
    columns = [fit_slices(name, values) for name, values in validation_values(survey, chunk_rows).items()]
    found: dict[str, list[np.ndarray]] = {
        f"{role}/{place}": [np.zeros(0, np.uint8)] for role in ROLES for place in range(len(columns))
    }
    for kept in survey.shards:
        for roles, batch in runs(kept, names, chunk_rows):
            for place, column in enumerate(columns):
                codes = column.codes(batch.column(column.name))
                for code, role in enumerate(ROLES):
                    found[f"{role}/{place}"].append(codes[roles == code])
    with write_atomically(run_path / CODES) as temporary:
        save_file({key: np.concatenate(parts) for key, parts in found.items()}, temporary)
    write_json(run_path / DEFINITIONS, {"columns": [asdict(column) for column in columns]})


def validation_values(survey: Survey, chunk_rows: int) -> dict[str, pa.Array]:
    """The validation rows' values in every column of `data.slices`."""
    names, validation = survey.data.slices, ROLES.index("validation")
    seen: dict[str, list[pa.Array]] = {name: [] for name in names}
    for kept in survey.shards:
        if (kept.roles == validation).any():
            for roles, batch in runs(kept, names, chunk_rows):
                mine = pa.array(roles == validation)
                for name in names:
                    seen[name].append(plain(batch.column(name)).filter(mine))
    return {name: joined(parts) for name, parts in seen.items()}


def runs(kept: ShardRows, names: list[str], chunk_rows: int) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Role codes and columns of a shard, a run at a time."""
    for run in read_runs(kept.shard, names, chunk_rows):
        yield kept.roles[run.first : run.first + run.batch.num_rows], run.batch


def read_slice_columns(run_path: Path) -> list[SliceColumn]:
    """Empty where no slices are named."""
    if not (run_path / DEFINITIONS).exists():
        return []
    return [SliceColumn(**entry) for entry in read_json(run_path / DEFINITIONS)["columns"]]


def read_slices(run_path: Path, role: str) -> list[np.ndarray]:
    """The codes of a role's rows in every column, uint8 `[rows]`."""
    columns = read_slice_columns(run_path)
    tensors = load_file(run_path / CODES) if columns else {}
    return [tensors[f"{role}/{place}"] for place in range(len(columns))]
