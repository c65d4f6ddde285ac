"""The formats: each has a file in `readers/`, and the package finds the files."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from pipeline.data.formats.format import Format
from pipeline.data.formats.streams import COMPRESSED, plain_suffix
from pipeline.errors import InputError

READERS = "pipeline.data.formats.readers"
PARQUET = (".parquet", ".pq", ".parq")
MAGIC = b"PAR1"
FOLDER = "pictures"
"""The file of the format of folders."""
REFUSED = {
    (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods"): ("a workbook", "Save the sheet as CSV UTF-8"),
    (".pkl", ".pickle", ".joblib", ".pt", ".pth"): (
        "a pickle, which may run code",
        "Save the table as Parquet",
    ),
    (".npy", ".npz", ".mat", ".h5", ".hdf5"): ("an array without named columns", "Save a table as Parquet"),
    (".db", ".sqlite", ".sqlite3", ".duckdb"): ("a database", "Export the table as CSV"),
    (".zip", ".tar", ".tgz", ".7z", ".rar"): ("an archive", "Unpack it"),
    (".orc", ".avro"): ("a format that is not read", "Save the table as Parquet"),
}
"""Ends of names that are refused: what such a file is, and what to do."""


@cache
def formats() -> dict[str, Format]:
    """All formats, by the name of their file in `readers/`."""
    folder = Path(__file__).with_name("readers")
    found = {}
    for module in iter_modules([str(folder)]):
        of_file = vars(import_module(f"{READERS}.{module.name}")).values()
        kinds = [each for each in of_file if isinstance(each, type) and issubclass(each, Format)]
        found[module.name] = next(each for each in kinds if each.__module__.endswith(module.name))()
    return found


def format_of(path: Path) -> Format | None:
    """The format of a source by its name, and of a folder; None for Parquet.

    Raises:
        InputError: the name is of no known format, and the file is not Parquet either.
    """
    if path.is_dir():
        return formats()[FOLDER]
    suffix = plain_suffix(path)
    if suffix in PARQUET and path.suffix.lower() in PARQUET:
        return None
    found = next((each for each in formats().values() if suffix in each.suffixes), None)
    if found and (found.compressible or path.suffix.lower() not in COMPRESSED):
        return found
    if _begins(path, MAGIC):
        return None
    raise _unknown(path, suffix)


def is_known(path: Path) -> bool:
    """Whether a file has the name of a format, Parquet included."""
    suffix = plain_suffix(path)
    return suffix in PARQUET or any(suffix in each.suffixes for each in formats().values())


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _unknown(path: Path, suffix: str) -> InputError:
    for suffixes, (what, hint) in REFUSED.items():
        if suffix in suffixes:
            return InputError(f"{path}: {what}", f"{hint}, and give that.")
    names = ", ".join(each.name for name, each in formats().items() if name != FOLDER)
    return InputError(
        f"{path}: not a Parquet file, and its name is of no other format",
        f"Give Parquet, {names} (by the end of the name), or a folder of pictures; or narrow the path pattern.",
    )
