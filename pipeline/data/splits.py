"""The role of each row: from its file, from a column, or from a hash of its features."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ROLES, Split
from pipeline.features.faults import Fault, fault_where

NONE = 255  # the code of a row without a role; others are places in ROLES
ASIDE = "aside"
"""In place of the role: rows that nothing can be learnt from, because they can't be read."""
ASIDE_CODE = len(ROLES)


def roles_by_column(column: pa.Array, split: Split) -> tuple[np.ndarray, list[Fault]]:
    """Role codes uint8 [rows] from a column's values; a value that names no role is a fault."""
    names = pa.array([split.train, split.validation, split.holdout])
    text = column.cast(pa.string())
    codes = pc.index_in(text, value_set=names).fill_null(NONE).to_numpy().astype(np.uint8)
    bad = codes == NONE
    if not bad.any():
        return codes, []
    value = text[int(np.argmax(bad))].as_py()
    what = "is null" if value is None else f"is {value!r}, which names no role"
    hint = (
        f"data.split knows {split.train!r}, {split.validation!r}, {split.holdout!r}: correct it or the rows."
    )
    return codes, fault_where(bad, what, hint)


def roles_by_fractions(ids: np.ndarray, split: Split) -> np.ndarray:
    """Role codes uint8 [rows] by a hash of `ids` (of the features, int64 [rows]) and the seed.

    A row keeps its role when others come or go, and copies of a row have the same role: what is measured on the
    holdout set is then never measured on rows that training saw.
    """
    assert split.fractions is not None
    bounds = np.cumsum(split.fractions)
    with np.errstate(over="ignore"):
        seed = mix(np.array([split.seed % 2**64], dtype=np.uint64))
        uniform = (mix(ids.view(np.uint64) ^ seed) >> np.uint64(11)) * 2.0**-53
    codes = np.searchsorted(bounds[:-1] / bounds[-1], uniform, side="right")
    return codes.astype(np.uint8)


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): uint64 → uint64, a bijection."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def asked_roles(split: Split | None, given: tuple[bool, bool, bool]) -> list[str]:
    """Roles that must have rows. `given`: whether files were given for each role."""
    if split is None:
        return [role for role, has in zip(ROLES, given) if has]
    if split.fractions is not None:
        return [role for role, share in zip(ROLES, split.fractions) if share > 0]
    return ["train"]  # a split column need not know the other two
