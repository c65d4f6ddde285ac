"""Write the tables of docs/benchmarks.md anew from benchmarks/results/*.json.

    python -m benchmarks.tables

A section of the page lies between `<!-- results: NAME -->` and `<!-- end -->`; what is between is replaced,
the rest of the page is left as it is. A section whose results are not there stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import HOME, RESULTS
from pipeline.run import read_json, write_text

PAGE = HOME.parent / "docs" / "benchmarks.md"
SECTION = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMMON = ("task", "method", "metric", "value", "low", "high", "n")

Rows = Sequence[dict[str, Any]]

DETECTION_METHODS = {
    "winnow": "**winnow**",
    "winnow_no_halves": "winnow without halves",
    "winnow_no_validation": "winnow without validation rows",
    "cleanlab": "cleanlab, 5 folds",
    "cleanlab_early": "cleanlab, 5 folds stopped early",
    "aum": "AUM",
    "final_loss": "final loss",
    "early_margin": "signal: early_margin",
    "early_loss": "signal: early_loss",
    "early_harm": "signal: early_harm",
    "neighbour_margin": "signal: neighbour_margin",
    "half_confidence": "signal: half_confidence",
    "self_influence": "score: self_influence",
    "validation_harm": "score: validation_harm",
    "winnow - cleanlab": "winnow − cleanlab",
    "winnow - cleanlab_early": "winnow − cleanlab stopped early",
    "winnow - aum": "winnow − AUM",
}


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, rewrite(page, RESULTS))
    print(PAGE)


def rewrite(page: str, results: Path) -> str:
    """The page with every marked section made from `results`/NAME.json, where that is there."""

    def section(found: re.Match[str]) -> str:
        path = results / f"{found[2]}.json"
        return found[1] + render(found[2], read_json(path)) + found[3] if path.exists() else found[0]

    return SECTION.sub(section, page)


def render(name: str, results: dict[str, Any]) -> str:
    """The tables of one benchmark under a line that says how they came to be."""
    layout: Callable[[Rows], str] = {"detection": detection, "audit_cost": audit_cost}.get(name, plain)
    origin = f"`{results['command']}` · {results['date']} · commit {results['commit']} · {results['machine']}"
    return f"\n{origin}\n\n{layout(results['rows'])}\n"


def detection(rows: Rows) -> str:
    """Rankings by method and task, then flags."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    found = {(row["method"], row["task"], row["metric"], row.get("flags")): row for row in rows}
    seeds = max(row["n"] for row in rows)
    over = "one training seed" if seeds == 1 else f"mean over {seeds} training seeds (least – largest)"

    def ranking(metric: str, cell: Callable[[dict[str, Any] | None], str]) -> str:
        lines = [
            [words, *(cell(found.get((method, task, metric, None))) for task in tasks)]
            for method, words in DETECTION_METHODS.items()
            if any((method, task, metric, None) in found for task in tasks)
        ]
        return table(["method", *tasks], lines)

    def flags(method: str, which: str) -> list[str]:
        metrics = ("precision", "recall", "f1")
        of_task = [[found.get((method, task, metric, which)) for metric in metrics] for task in tasks]
        return [f"{DETECTION_METHODS[method]}: {which}", *(" / ".join(map(number, each)) for each in of_task)]

    flagged = dict.fromkeys((row["method"], row["flags"]) for row in rows if "flags" in row)
    return "\n".join(
        [
            f"Average precision, {over}:\n",
            ranking("average_precision", with_range),
            "\nArea under the ROC curve:\n",
            ranking("auroc", number),
            "\nPrecision / recall / F1 of what is flagged:\n",
            table(["method: flags", *tasks], [flags(*each) for each in flagged]),
            "\nCost in trainings on all rows, evaluation and attribution not counted:\n",
            ranking("full_trainings", number),
        ]
    )


def number(row: dict[str, Any] | None) -> str:
    return "–" if row is None else f"{row['value']:.3f}"


def with_range(row: dict[str, Any] | None) -> str:
    if row is None or row["n"] == 1:
        return number(row)
    return f"{row['value']:.3f} ({row['low']:.3f} – {row['high']:.3f})"


def audit_cost(rows: Rows) -> str:
    """One line per metric, bytes as MiB, with its target where it has one."""
    lines = []
    for row in rows:
        what = row["metric"].replace("_bytes", "").replace("_", " ")
        what += "".join(f": {row[key]}" for key in ("stage", "process") if key in row)
        target = f"≤ {cost(row['metric'], row['target'])}" if "target" in row else ""
        lines.append([row["task"], what, cost(row["metric"], row["value"]), target])
    return table(["task", "what", "value", "target"], lines)


def cost(metric: str, value: float) -> str:
    if metric.endswith("_bytes"):
        return f"{value / 2**20:,.0f} MiB"
    return f"{100 * value:.0f} %" if metric.startswith("share_") else f"{value:,.2f} s"


def plain(rows: Rows) -> str:
    """Every row as it is, with a column for each further field."""
    others = list(dict.fromkeys(key for row in rows for key in row if key not in COMMON))
    lines = [
        [
            *(str(row.get(key, "")) for key in ("task", "method", *others, "metric")),
            f"{row['value']:.4g}" if isinstance(row["value"], int | float) else str(row["value"]),
            f"{row['low']:.4g} – {row['high']:.4g}" if row.get("low") is not None else "",
            str(row.get("n", "")),
        ]
        for row in rows
    ]
    return table(["task", "method", *others, "metric", "value", "low – high", "n"], lines)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


if __name__ == "__main__":
    main()
