"""What `winnow lds` prints: LDS and slope of every method, the ceiling, the removal curve; what a truth bank says."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from flows.tables import print_columns, print_line
from pipeline.faithfulness.bank_scores import SENSE
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


def print_bank(console: Console, found: dict[str, Any]) -> None:
    print_line(
        console,
        f"{found['task']}: {words.rows(found['rows'])}, {words.percent(found['removed'], 0)} of them removed by each "
        f"of {found['masks']} masks, {words.plural(found['retrainings'], 'retraining')} of each",
    )
    print_line(console, f"rows     {found['dataset']}")
    print_line(console, f"training {found['recipe']}")
    print_line(
        console, f"made     {found['made']['date']}, commit {found['made']['commit']}, code {found['code']}"
    )
    if found["rows_checked"]:
        print_line(console, "Your rows are the bank's, in the same order.")
    scored = {name: each for name, each in found["questions"].items() if each["lds"] is not None}
    for question in (scored or found["questions"]).values():
        print_line(console, f"\nLDS, {question['words']}, in brackets 95 % intervals")
        lines = [] if question["lds"] is None else [("your scores", question["lds"])]
        lines += [("ceiling", question["ceiling"])] if question["ceiling"] is not None else []
        lines += sorted(question["published"].items(), key=lambda entry: -entry[1]["value"])
        print_columns(console, [[f"  {name}", words.interval(figure)] for name, figure in lines])
    below = [each for each in scored.values() if each["lds"]["high"] < 0]
    if below:
        print_line(console, f"\nYour LDS is below 0. {SENSE} Turn their signs if they mean the contrary.")
    if not scored:
        print_line(console, f"\nScore a method with --scores FILE, rows by queries. {SENSE}")
