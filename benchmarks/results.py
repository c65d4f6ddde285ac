"""What all benchmarks share: where results go, and the form of the file."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.runs.directory import read_json, write_json, write_text

HOME = Path(__file__).parent
CACHE = HOME / "cache"
RESULTS = HOME / "results"


def write_results(name: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write `benchmarks/results/NAME.json`: commit, date, machine, command and the rows.

    A row has `task`, `method`, `metric` and `value`; `low`, `high`, `n` and others where there are any.
    """
    path = RESULTS / f"{name}.json"
    write_json(path, header_of(name) | {"rows": list(rows)})
    return path


def write_lines(name: str, rows: Sequence[dict[str, Any]], folder: Path | None = None) -> Path:
    """Write `benchmarks/results/NAME.jsonl`, or into another folder: the header, then one row a line."""
    path = (folder or RESULTS) / f"{name}.jsonl"
    write_text(path, "".join(json.dumps(each) + "\n" for each in (header_of(name), *rows)))
    return path


def write_table(
    name: str, rows: Sequence[dict[str, Any]], folder: Path | None = None, module: str | None = None
) -> Path:
    """Write `benchmarks/results/NAME.csv`, or into another folder; the command is that of `benchmarks.MODULE`.

    First the header as JSON behind `#`, then a column per key. Strings stand as they are, other values as JSON; a cell
    is empty where a row has no such key.

    Raises ValueError for a string that would be read as another value.
    """
    path = (folder or RESULTS) / f"{name}.csv"
    text = io.StringIO()
    text.write(f"# {json.dumps(header_of(module or name))}\n")
    table = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({key: as_cell(value) for key, value in row.items()})
    write_text(path, text.getvalue())
    return path


def read_table(path: Path) -> dict[str, Any]:
    """What `write_table` wrote."""
    header, _, table = path.read_text(encoding="utf-8").partition("\n")
    lines = csv.DictReader(io.StringIO(table))
    rows = [{key: of_cell(cell) for key, cell in line.items() if cell} for line in lines]
    return json.loads(header.removeprefix("# ")) | {"rows": rows}


def as_cell(value: Any) -> str:
    cell = value if isinstance(value, str) else json.dumps(value)
    if of_cell(cell) != value or not cell:
        raise ValueError(f"{value!r} would not be read as it was written")
    return cell


def of_cell(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def read_results(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """What `write_results`, `write_table` or `write_lines` wrote, with the rows under `rows`; None where none is."""
    if (folder / f"{name}.json").exists():
        return read_json(folder / f"{name}.json")
    if (folder / f"{name}.csv").exists():
        return read_table(folder / f"{name}.csv")
    path = folder / f"{name}.jsonl"
    if not path.exists():
        return None
    header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return header | {"rows": rows}


def header_of(name: str) -> dict[str, Any]:
    """Commit, date, machine and command."""
    command = " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]])
    return {"commit": commit(), "date": date.today().isoformat(), "machine": machine(), "command": command}


@cache
def commit() -> str | None:
    """The commit of the working tree, with `+` if tracked files differ from it; None outside a repository.

    It is that of the first call, before results are written.
    """
    try:
        found = git("rev-parse", "--short=12", "HEAD")
        return found + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HOME, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, {processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """The processor's name where the system tells it."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
