"""What the folder of a Hugging Face dataset has beside its data files, for an export that loads as the source does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import digest
from pipeline.data.formats.folders import INFO, SPLITS, STATE, data_files
from pipeline.runs.directory import read_json, write_json


def is_of_dataset(path: Path) -> bool:
    """Whether a file is a data file of a Hugging Face dataset that was saved to disk."""
    return path.name in (data_files(path.parent) or ())


def write_beside(exported: Mapping[Path, tuple[Path, int]]) -> None:
    """Write the files beside exported data files: which they are, the features, and the splits.

    Args:
        exported: data file of a source → its export and the rows of this.
    """
    homes: dict[Path, Path] = {}
    for source, (target, _) in exported.items():
        if is_of_dataset(source):
            homes[source.parent] = target.parent
    for home, new in homes.items():
        mine = {source.name: found for source, found in exported.items() if source.parent == home}
        state, info = read_json(home / STATE), read_json(home / INFO)
        files = [entry for entry in state["_data_files"] if entry["filename"] in mine]
        rows = [mine[entry["filename"]][1] for entry in files]
        mark = digest([state.get("_fingerprint"), [entry["filename"] for entry in files], rows])[:16]
        write_json(new / STATE, state | {"_data_files": files, "_fingerprint": mark})
        write_json(new / INFO, _with_rows(info, state.get("_split"), sum(rows)))
    for root in {home.parent for home in homes if (home.parent / SPLITS).exists()}:
        splits = read_json(root / SPLITS)["splits"]
        there = {home.name: new.parent for home, new in homes.items() if home.parent == root}
        write_json(
            next(iter(there.values())) / SPLITS, {"splits": [name for name in splits if name in there]}
        )


def _with_rows(info: dict[str, Any], split: str | None, rows: int) -> dict[str, Any]:
    """The facts about a dataset with another number of rows; without sizes, which no longer hold."""
    splits = info.get("splits") or {}
    if split not in splits:
        return info
    facts = {"name": split, "num_bytes": 0, "num_examples": rows, "dataset_name": info.get("dataset_name")}
    return info | {"splits": {split: facts}, "dataset_size": None, "size_in_bytes": None}
