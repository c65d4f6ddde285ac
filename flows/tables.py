"""Tables on a console: what `winnow check`, `runs` and `compare` found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.check import Line
from pipeline.report import words
from pipeline.runs import RunLine

NAME_WIDTH = 14
TEXT_WIDTH = 60


def print_line(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def print_preflight(console: Console, lines: Sequence[Line]) -> None:
    for line in lines:
        status = f"  {line.status}" if line.status else ""
        print_line(console, f"  {line.name:<{NAME_WIDTH}}{line.text:<{TEXT_WIDTH if status else 0}}{status}")


def print_runs(console: Console, lines: Sequence[RunLine]) -> None:
    if not lines:
        print_line(console, "No runs here. `winnow audit CONFIG` makes one.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("run", "verdict", "rows", "removed", "when"):
        table.add_column(name, justify="right" if name in ("rows", "removed") else "left", no_wrap=True)
    for line in lines:
        unfinished = f"unfinished: {line.last_stage} done" if line.last_stage else "unfinished"
        numbers = ("" if each is None else words.count(each) for each in (line.rows, line.removed))
        table.add_row(Text(line.path), line.verdict or unfinished, *numbers, line.when)
    console.print(table, soft_wrap=True)


def print_comparison(console: Console, found: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("", *found["runs"]):
        table.add_column(Text(name), no_wrap=True)
    for name, values in found["values"].items():
        table.add_row(name, *(value_text(name, value) for value in values))
    console.print(table, soft_wrap=True)
    flags = found["flags"]
    print_line(
        console,
        f"\nflagged in both: {words.rows(flags['both'])}; only in the first: "
        f"{words.count(flags['first_only'])}; only in the second: {words.count(flags['second_only'])}",
    )


def value_text(name: str, value: Any) -> str:
    """A compared value as people write it."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return words.count(value)
    if name.startswith("change of"):
        return words.changes([value], name)[0]
    return words.percent(value) if name == "estimated noise" else words.level(value, name)
