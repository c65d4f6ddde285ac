"""Which sources a folder holds: data files, or pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.data.formats.registry import PARQUET, format_of, is_known
from pipeline.data.names import role_word
from pipeline.errors import InputError
from pipeline.features.picture_files import has_ending

TABLES = {"metadata", "labels"}
"""Files of these names beside pictures say something about each of them."""
STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
"""What a folder of a Hugging Face dataset has beside its data, and the folder above its splits."""


def sources_in(folder: Path) -> list[Path]:
    """The sources of a folder and the folders below, sorted.

    They are its Parquet files, or else its files of one other format. A Hugging Face dataset has those that its
    `state.json` names. A folder with pictures is one source; where all of its pictures lie in folders that are named
    after roles, each of these is one.

    Raises:
        InputError: there are files of two formats.
    """
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not _is_hidden(file.relative_to(folder))
    ]
    pictures = [file for file in files if is_picture(file)]
    data = [
        file for file in files if is_known(file) and not (pictures and file.name.partition(".")[0] in TABLES)
    ]
    data = _without_other_files(data)
    if not data:
        return _picture_folders(folder, pictures)
    parquet = [file for file in data if file.suffix.lower() in PARQUET]
    if parquet:
        return parquet
    kinds = {type(format_of(file)): file for file in reversed(data)}  # the first file of each
    if len(kinds) > 1:
        one, other = sorted(kinds.values())[:2]
        raise InputError(
            f"{folder}: has files of several formats, as {one.relative_to(folder)} and {other.relative_to(folder)}",
            f"Name those that are meant, as '{folder}/*{one.suffix}'.",
        )
    return data


def is_picture(path: Path) -> bool:
    """Whether a file has the name of a picture."""
    return has_ending(path.name)


def tables_in(folder: Path) -> list[Path]:
    """The files of a folder that have the name and the format of a table about pictures."""
    return [
        each
        for each in sorted(folder.iterdir())
        if each.is_file() and each.name.partition(".")[0] in TABLES and is_known(each)
    ]


def _is_hidden(path: Path) -> bool:
    """Names that start with `_` or `.` are not data, by the convention of Parquet datasets."""
    return any(part.startswith(("_", ".")) for part in path.parts)


def _without_other_files(files: Iterable[Path]) -> list[Path]:
    """Without what a Hugging Face dataset keeps beside its data."""
    named: dict[Path, set[str] | None] = {}
    kept = []
    for file in files:
        if file.name in (STATE, INFO, SPLITS):
            continue
        if file.parent not in named:
            named[file.parent] = data_files(file.parent)
        of_dataset = named[file.parent]
        if of_dataset is None or file.name in of_dataset:
            kept.append(file)
    return kept


def data_files(folder: Path) -> set[str] | None:
    """The names of the data files of a folder that holds a Hugging Face dataset; None for others.

    Raises:
        InputError: its `state.json` is damaged.
    """
    state = folder / STATE
    if not (state.exists() and (folder / INFO).exists()):
        return None
    try:
        return {entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{state}: can't be read ({reason})", "Save the dataset again.") from None


def _picture_folders(folder: Path, pictures: list[Path]) -> list[Path]:
    tops = {picture.relative_to(folder).parts[0] for picture in pictures}
    if any(folder / top in pictures for top in tops):
        return [folder]
    roles = {top: role_word(top) for top in tops}
    if None in roles.values() or "train" not in roles.values():
        return [folder] if pictures else []
    return [folder / top for top in sorted(tops)]
