"""Encoders fitted on one column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.features.encoder import Column
from pipeline.features.registry import find_kind


def fit(kind: str, column: pa.Array, train: np.ndarray | None = None, **options: Any) -> Any:
    """An encoder fitted on one column that must have no faults."""
    encoder = create(kind, column.type, **options)
    assert encoder.update(column, np.ones(len(column), bool) if train is None else train) == []
    encoder.finish()
    return encoder


def create(
    kind: str,
    arrow_type: pa.DataType,
    metadata: dict[bytes, bytes] | None = None,
    **options: Any,
) -> Any:
    data = Data.model_validate({"train": "t", "features": {"x": kind}, "label": "label"} | options)
    return find_kind(kind).create(Column("x", arrow_type, kind, of_file=metadata or {}), data)


def faults(kind: str, column: pa.Array, **options: Any) -> list[tuple[list[int], str]]:
    """Places and wording of the faults that an encoder finds in a column."""
    found = create(kind, column.type, **options).update(column, np.ones(len(column), bool))
    return [(fault.places.tolist(), fault.what) for fault in found]
