"""Small Parquet datasets, and `prepare` run on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.config import AuditConfig
from pipeline.data.encode import Encoding
from pipeline.data.encoded import EncodedData
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
