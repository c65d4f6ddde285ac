"""Tables on a console: what `winnow check`, `runs` and `compare` found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from pipeline.runs.listing import RunLine
from pipeline.text import words

if TYPE_CHECKING:
    from pipeline.preflight.result import CheckLine, LayerCost

NAME_WIDTH = 14
TEXT_WIDTH = 60


def print_line(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def print_preflight(console: Console, lines: Sequence[CheckLine]) -> None:
    for line in lines:
        status = f"  {line.status}" if line.status else ""
        print_line(console, f"  {line.name:<{NAME_WIDTH}}{line.text:<{TEXT_WIDTH if status else 0}}{status}")


def print_layers(console: Console, layers: Sequence[LayerCost]) -> None:
    """How attribution computes each layer; the numbers are those of one row at all checkpoints."""
    if not layers:
        return
    rows = [("layer", "parameters", "form", "MFLOP per row", "bytes per row")]
    for layer in layers:
        numbers = f"{layer.operations / 1e6:,.2f}", words.count(layer.bytes)
        rows.append((layer.layer or "(model)", words.count(layer.parameters), layer.form, *numbers))
    print_line(console, "")
    print_columns(console, [[f"  {row[0]}", *row[1:]] for row in rows])


def print_runs(console: Console, lines: Sequence[RunLine]) -> None:
    if not lines:
        print_line(console, "No runs here. `winnow audit CONFIG` makes one.")
        return
    rows: list[Sequence[str]] = [("run", "verdict", "rows", "removed", "when")]
    for line in lines:
        unfinished = f"unfinished, {line.last_stage} done" if line.last_stage else "unfinished"
        unfinished = "damaged" if line.damaged else unfinished
        counts = ["" if each is None else words.count(each) for each in (line.rows, line.removed)]
        rows.append([line.path, line.verdict or unfinished, *counts, line.when])
    print_columns(console, rows)
    for line in lines:
        if line.damaged:
            print_line(console, f"damaged: {line.damaged}")
            print_line(
                console,
                f"  `winnow audit` with the run's own config and --output {line.path} makes it anew.",
            )


def print_comparison(console: Console, found: dict[str, Any]) -> None:
    rows = [("", *found["runs"])]
    rows += [
        (name, *(_value_text(name, value) for value in values)) for name, values in found["values"].items()
    ]
    print_columns(console, rows)
    flags = found["flags"]
    print_line(
        console,
        f"\nflagged in both: {words.rows(flags['both'])}; only in the first: "
        f"{words.count(flags['first_only'])}; only in the second: {words.count(flags['second_only'])}",
    )


def print_columns(console: Console, rows: Sequence[Sequence[str]]) -> None:
    """Cells under each other, never cut short: paths are there to be copied."""
    widths = [max(map(len, column)) + 3 for column in zip(*rows)]
    for row in rows:
        print_line(console, "".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())


def _value_text(name: str, value: Any) -> str:
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
