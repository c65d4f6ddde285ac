"""What `winnow lds` prints: LDS and slope of every method, the ceiling, and the removal curve."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from flows.tables import print_columns, print_line
from pipeline.faithfulness.page import SHOWN
from pipeline.text import words


def print_lds(console: Console, found: dict[str, Any], folder: Path) -> None:
    for key, title in SHOWN.items():
        question = found[key]
        lines = [["method", "LDS", "slope"]]
        for method, figures in question["methods"].items():
            lines.append([method, words.interval(figures["lds"]), words.interval(figures["slope"])])
        if question["ceiling"] is not None:
            lines.append(["ceiling", words.interval(question["ceiling"]), ""])
        print_line(console, f"{title}, {found['masks']} subsets, in brackets 95 % intervals")
        print_columns(console, lines)
    curve = found["curve"]
    shares = [point["share"] for point in next(iter(curve["methods"].values()))]
    lines = [["removed by", *(words.percent(share, 0) for share in shares)]]
    for method, points in curve["methods"].items():
        lines.append([method, *(f"{fmean(point['losses']):.4f}" for point in points)])
    as_given = fmean(curve["as_given"])
    print_line(console, f"Validation loss without the most harmful rows (nothing removed: {as_given:.4f})")
    print_columns(console, lines)
    print_line(console, f"page    {folder / 'lds.html'}\nnumbers {folder / 'lds.json'}")
