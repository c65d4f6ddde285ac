"""Small Parquet datasets, and `prepare` run on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.config import AuditConfig, Data
from pipeline.data.encode import Encoding
from pipeline.data.encoded import EncodedData
from pipeline.data.encoders import ENCODERS, Column
from pipeline.data.prepare import prepare
from pipeline.runs.directory import RunDirectory

torch.set_num_threads(1)


@dataclass(frozen=True)
class Prepared:
    facts: dict[str, Any]
    data: EncodedData
    path: Path

    @property
    def encoding(self) -> Encoding:
        return self.data.encoding

    def catalog(self) -> dict[str, list[Any]]:
        return pq.read_table(self.path / "catalog.parquet").to_pydict()


def write(path: Path | str, columns: dict[str, Any] | pa.Table, row_group_size: int | None = None) -> str:
    """Write a Parquet file and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path, row_group_size=row_group_size)
    return str(path)


def config(chunk_rows: int = 8192, **data: Any) -> AuditConfig:
    data = {"features": {"x": "auto"}, "label": "label"} | data
    return AuditConfig.model_validate({"name": "small", "data": data, "compute": {"chunk_rows": chunk_rows}})


def run_prepare(run_path: Path, chunk_rows: int = 8192, **data: Any) -> Prepared:
    context = SimpleNamespace(
        config=config(chunk_rows, **data), run=RunDirectory(run_path), progress=lambda *_: None
    )
    facts = prepare(context)
    return Prepared(facts, EncodedData.open(run_path), run_path)


def fit(kind: str, column: pa.Array, train: np.ndarray | None = None, **options: Any) -> Any:
    """An encoder fitted on one column that must have no faults."""
    encoder = create(kind, column.type, **options)
    assert encoder.update(column, np.ones(len(column), bool) if train is None else train) == []
    encoder.finish()
    return encoder


def create(
    kind: str,
    arrow_type: pa.DataType,
    shape: tuple[int, ...] | None = None,
    layout: str | None = None,
    **options: Any,
) -> Any:
    data = Data.model_validate({"train": "t", "features": {"x": kind}, "label": "label"} | options)
    return ENCODERS[kind].create(Column("x", arrow_type, kind, shape, layout), data)


def faults(kind: str, column: pa.Array, **options: Any) -> list[tuple[list[int], str]]:
    """Places and wording of the faults that an encoder finds in a column."""
    found = create(kind, column.type, **options).update(column, np.ones(len(column), bool))
    return [(fault.places.tolist(), fault.what) for fault in found]
