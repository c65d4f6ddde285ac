"""Arrow files and streams, Feather, and Hugging Face datasets, held against the tables that were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from data.exports import config, make_run
from data.small import run_prepare
from pipeline.data.files import matches
from pipeline.data.first_look.inspect_files import look
from pipeline.data.formats.copies import notes_of
from pipeline.data.formats.sources import open_source
from pipeline.data.originals import class_names
from pipeline.errors import InputError
from pipeline.export.export import export_rows


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(rows: int = 6, **more: Any) -> pa.Table:
    labels = pa.array(["a", "b"] * (rows // 2)).dictionary_encode()
    nested = pa.array([[{"v": row}] for row in range(rows)])
    return pa.table({"x": pa.array(np.arange(rows), pa.int16()), "n": nested, "label": labels, **more})


def write(path: str, content: pa.Table) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if path.endswith(".feather"):
        pyarrow.feather.write_feather(content, path)
        return
    new = pa.ipc.new_stream if path.endswith(".arrow") else pa.ipc.new_file
    with new(path, content.schema) as writer:
        writer.write_table(content, max_chunksize=2)


PATHS = ["a.arrow", "a.ipc", "a.feather"]


@pytest.mark.parametrize("path", PATHS)
def test_files_and_streams_are_read_and_exported(path: str) -> None:
    content = table().replace_schema_metadata({"by": "us"})
    write(path, content)
    assert open_source(path).read().equals(content)
    assert open_source(path).schema_arrow.equals(content.schema, check_metadata=True)
    run = make_run([path], {(path, 0): ("remove", None), (path, 3): ("relabel", "new")})
    export_rows(run, config())
    written = run / "cleaned_as_given" / path
    assert written.read_bytes()[:6] == Path(path).read_bytes()[:6]
    opened = pa.ipc.open_stream(written) if path == "a.arrow" else pa.ipc.open_file(written)
    found = opened.read_all()
    assert found.schema.equals(content.schema, check_metadata=True)
    wanted = content.to_pylist()[1:]
    wanted[2]["label"] = "new"
    assert found.to_pylist() == wanted == pq.read_table(run / "cleaned/a.parquet").to_pylist()


def test_a_column_that_parquet_cannot_hold_is_left_out_and_stays_in_the_export() -> None:
    odd = pc.run_end_encode(pa.array([1, 1, 2, 2, 3, 3]))
    write("a.ipc", table(odd=odd))
    assert open_source("a.ipc").schema_arrow.names == ["x", "n", "label"]
    assert "column 'odd' is run_end_encoded" in notes_of("a.ipc")[0]


@pytest.mark.parametrize("kept", [0.4, 0.9])
def test_a_file_that_is_cut_short_is_named(kept: float) -> None:
    write("bad.ipc", table(2000))
    content = Path("bad.ipc").read_bytes()
    Path("bad.ipc").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=r"bad\.ipc: not an Arrow file or stream, or cut short"):
        open_source("bad.ipc")


FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["negative", "positive"], "_type": "ClassLabel"},
}


def saved(folder: str, labels: list[int], metadata: bool = True, shards: int = 1) -> list[dict]:
    """A dataset as `datasets` saves it to disk; returns its rows."""
    rows = [
        {"text": f"word{place} and some more words", "label": label} for place, label in enumerate(labels)
    ]
    schema = pa.schema({"text": pa.string(), "label": pa.int64()})
    if metadata:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    names = [f"data-{shard:05d}-of-{shards:05d}.arrow" for shard in range(shards)]
    for shard, name in enumerate(names):
        write(f"{folder}/{name}", pa.Table.from_pylist(rows[shard::shards], schema))
    write(f"{folder}/cache-1234.arrow", pa.table({"indices": [1]}))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "abc", "_split": "train"}
    info = {"features": FEATURES, "splits": {"train": {"name": "train", "num_examples": len(rows)}}}
    Path(folder, "state.json").write_text(json.dumps(state))
    Path(folder, "dataset_info.json").write_text(json.dumps(info))
    return rows


@pytest.mark.parametrize("metadata", [True, False])
def test_a_saved_dataset_has_its_data_files_and_class_names(metadata: bool) -> None:
    rows = saved("ds", [0, 1, -1, 1], metadata, shards=2)
    paths = matches("ds", "train")
    assert paths == ["ds/data-00000-of-00002.arrow", "ds/data-00001-of-00002.arrow"]
    assert [row for path in paths for row in open_source(path).read().to_pylist()] == rows[::2] + rows[1::2]
    assert class_names(open_source(paths[0]).schema_arrow, "label") == {0: "negative", 1: "positive"}


def test_a_dataset_of_splits_is_exported_with_what_stands_beside_the_data() -> None:
    saved("ds/train", [0, 1, 0, 1], shards=2)
    saved("ds/test", [0, 1])
    Path("ds/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    paths = [*matches("ds/train", "train"), *matches("ds/test", "train")]
    run = make_run(paths, {(paths[0], 0): ("remove", None), (paths[2], 1): ("relabel", 0)})
    export_rows(run, config())
    home = run / "cleaned_as_given"
    assert json.loads((home / "dataset_dict.json").read_text()) == {"splits": ["train", "test"]}
    state = json.loads((home / "train/state.json").read_text())
    assert [entry["filename"] for entry in state["_data_files"]] == [Path(path).name for path in paths[:2]]
    info = json.loads((home / "train/dataset_info.json").read_text())
    assert info["features"] == FEATURES
    assert info["splits"]["train"]["num_examples"] == 3
    files = [home / "train" / Path(path).name for path in paths[:2]] + [
        home / "test/data-00000-of-00001.arrow"
    ]
    labels = [label for file in files for label in pa.ipc.open_stream(file).read_all()["label"].to_pylist()]
    assert labels == [0, 1, 1, 0, 0]


def test_numbers_without_a_class_name_are_no_labels(tmp_path: Path) -> None:
    saved("ds", [0, 1, 1, -1, 0, 1] * 30)
    proposal = look(["ds"])
    assert proposal.label.text == "2 classes: positive 60 %, negative 40 %"
    assert proposal.label.missing == 30
    path = matches("ds", "train")[0]
    data = {"train": path, "features": {"text": "text"}}
    with pytest.raises(InputError, match=r"row 3: label is -1, the number of no class"):
        run_prepare(tmp_path / "run", **data, missing_label="error")
    facts = run_prepare(tmp_path / "run", **data, missing_label="drop").facts
    assert facts["class_counts"] == {"0": 60, "1": 90}
    assert facts["dropped_labels"] == 30
