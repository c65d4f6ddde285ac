"""Files in which a person names train rows by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import AuditConfig
from pipeline.data.named_rows import content_hash, trusted_rows
from pipeline.errors import InputError

from .small import run_prepare, write


@pytest.fixture
def prepared(tmp_path: Path) -> dict[str, Any]:
    """Arguments for `run_prepare` of 40 train and 10 validation rows with the keys 0 … 49."""

    def part(keys: range) -> dict[str, Any]:
        return {"id": list(keys), "x": [float(key) for key in keys], "label": [key % 2 for key in keys]}

    write(tmp_path / "train.parquet", part(range(40)))
    write(tmp_path / "validation.parquet", part(range(40, 50)))
    roles = {role: str(tmp_path / f"{role}.parquet") for role in ("train", "validation")}
    return {**roles, "features": {"x": "numeric"}, "key": "id"}


def with_trusted(data: dict[str, Any], path: Path | str) -> AuditConfig:
    detection = {"rule": "trusted", "trusted": str(path)}
    return AuditConfig.model_validate(
        {"name": "small", "data": data | {"label": "label"}, "detection": detection}
    )


@pytest.mark.parametrize("name", ["id", "row_key"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_are_found_by_key_each_once(
    prepared: dict[str, Any], tmp_path: Path, name: str, suffix: str
) -> None:
    path = tmp_path / f"trusted.{suffix}"
    keys = [7, 3, 39, 7]
    if suffix == "csv":
        path.write_text(f"other,{name}\n" + "".join(f"x,{key}\n" for key in keys))
    else:
        write(path, pa.table({name: keys, "other": ["x"] * 4}))
    run_prepare(tmp_path / "run", **prepared)
    assert trusted_rows(with_trusted(prepared, path), tmp_path / "run").tolist() == [3, 7, 39]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\n3\n45\n", r"line 3: row '45' is a validation row"),
        ("id\n3\n99\n", r"line 3: no row of the dataset has the key '99'"),
        ("name\n3\n", r"no column 'id' or 'row_key' \(it has 'name'\)"),
        ("id,x\n3,1\n,1\n", r"line 3: the key is empty"),
        ("id\n", r"names no row"),
        ("", r"empty"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_before_any_work(
    prepared: dict[str, Any], tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "trusted.csv"
    path.write_text(text)
    run_prepare(tmp_path / "run", **prepared)
    with pytest.raises(InputError, match=message) as error:
        trusted_rows(with_trusted(prepared, path), tmp_path / "run")
    assert str(path) in error.value.message


@pytest.mark.parametrize(("keys", "more"), [("99", ""), ("99\n98", "(1 more is unknown)")])
def test_only_further_unknown_keys_are_counted(
    prepared: dict[str, Any], tmp_path: Path, keys: str, more: str
) -> None:
    path = tmp_path / "trusted.csv"
    path.write_text(f"id\n3\n{keys}\n")
    run_prepare(tmp_path / "run", **prepared)
    with pytest.raises(InputError, match="no row of the dataset has the key '99'") as error:
        trusted_rows(with_trusted(prepared, path), tmp_path / "run")
    assert (error.value.hint or "").endswith(f"shard-path#row.{more and chr(10) + more}")


def test_without_a_key_column_rows_are_named_by_shard_and_row(
    prepared: dict[str, Any], tmp_path: Path
) -> None:
    del prepared["key"]
    path = tmp_path / "trusted.csv"
    path.write_text(f"row_key\n{prepared['train']}#12\n")
    run_prepare(tmp_path / "run", **prepared)
    assert trusted_rows(with_trusted(prepared, path), tmp_path / "run").tolist() == [12]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv: no such file"):
        content_hash(str(tmp_path / "nowhere.csv"))
