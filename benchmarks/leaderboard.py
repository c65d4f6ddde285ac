"""The leaderboard of README.md: a dozen numbers with their intervals, made from benchmarks/results/.

`python -m benchmarks.tables` writes it between `<!-- leaderboard -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection_summary import bootstrap
from benchmarks.markdown import Rows, table
from benchmarks.results import HOME, RESULTS, read_results

README = HOME.parent / "README.md"
SECTION = re.compile(r"(<!-- leaderboard -->\n).*?(<!-- end -->)", re.DOTALL)
Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """A benchmark: its name, its page under docs/measurements/, and what its command takes."""

    name: str
    page: str
    options: str = ""

    @property
    def command(self) -> str:
        return f"python -m benchmarks.{self.name}{self.options}"

    def rows(self, folder: Path) -> Rows:
        found = read_results(self.name, folder)
        if found is None:
            raise FileNotFoundError(f"{folder} has no results of {self.name}; `{self.command}` makes them")
        rows: Rows = found["rows"]
        return rows


@dataclass(frozen=True)
class Line:
    """What is measured, in words; by what; `pick` finds the row with `value`, `low`, `high`; `form` writes a number."""

    what: str
    by: Measured
    pick: Callable[[Rows], Row]
    form: Callable[[float], str]

    def cells(self, folder: Path) -> list[str]:
        row = self.pick(self.by.rows(folder))
        value, low, high = (self.form(row[key]) for key in ("value", "low", "high"))
        return [
            f"[{self.what}](docs/measurements/{self.by.page}.md)",
            f"{value} ({low} – {high})",
            f"`{self.by.command}`",
        ]


def one(**asked: Any) -> Callable[[Rows], Row]:
    """The row that has these values; LDS of a method against itself are not among the rivals."""

    def pick(rows: Rows) -> Row:
        fits = [row for row in rows if all(row.get(key) == value for key, value in asked.items())]
        (found,) = [row for row in fits if not str(row.get("against", "")).startswith("source")]
        return found

    return pick


def least(metric: str, tasks: Sequence[str]) -> Callable[[Rows], Row]:
    """The row of least value among these tasks."""
    return lambda rows: min(
        (row for row in rows if row["metric"] == metric and row["task"] in tasks and "value" in row),
        key=lambda row: row["value"],
    )


def least_kept(rows: Rows) -> Row:
    """The rule and task whose promise was kept least often."""
    return min((row for row in rows if row["metric"] == "promise_kept"), key=lambda row: row["value"])


def most_improved(rows: Rows) -> Row:
    """The task and kind of which most draws were called improved."""
    return max((row for row in rows if row["metric"] == "improved"), key=lambda row: row["value"])


def lead_on_one_file(rows: Rows) -> Row:
    """Average precision beyond that of the best peer, a mean of the sets, with a bootstrap over the sets."""
    of_sets = list(one(metric="average_precision over cleanlab, lowest of a set")(rows)["sets"].values())
    return {"value": float(np.mean(of_sets)), **bootstrap(of_sets)}


def lds_lead(task: str) -> Callable[[Rows], Row]:
    """LDS of single queries beyond that of the best rival, half of the rows removed, at the tail average."""
    return one(
        task=task,
        query="margins",
        removed=0.5,
        truth="tail",
        metric="lds_difference",
        method="source_refined",
    )


def plus(value: float) -> str:
    return f"{value:+.3f}"


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def plain(value: float) -> str:
    return f"{value:.1f}"


ONE_FILE = Measured("one_file", "one-file", " --data DIR")
DETECTION = Measured("detection", "detection", " --data DIR")
LDS = Measured("lds", "faithfulness", " --data DIR")
POISON = Measured("poison", "poison", " --data DIR")
SELF_INFLUENCE = ("mlp_self_influence", "convnet_self_influence", "transformer_self_influence")

LINES = (
    Line(
        "Wrong labels in one noisy file: average precision beyond the best usual form of cleanlab",
        ONE_FILE,
        lead_on_one_file,
        plus,
    ),
    Line(
        "Wrong labels with clean validation rows: average precision beyond cleanlab",
        DETECTION,
        one(task="all", method="winnow - cleanlab", metric="average_precision"),
        plus,
    ),
    Line(
        "The same beyond cleanlab that is stopped early",
        DETECTION,
        one(task="all", method="winnow - cleanlab_early", metric="average_precision"),
        plus,
    ),
    Line(
        "Accuracy on true labels after cleaning, in points beyond cleanlab",
        DETECTION,
        one(task="all", method="winnow - cleanlab", metric="holdout_gain"),
        points,
    ),
    Line(
        "Faithfulness on FashionMNIST: LDS of single predictions beyond the best rival",
        LDS,
        lds_lead("fashion_mnist"),
        plus,
    ),
    Line("The same with a convnet on CIFAR-10", LDS, lds_lead("cifar10_convnet"), plus),
    Line("The same on Parkinson's telemonitoring, a regression", LDS, lds_lead("parkinsons"), plus),
    Line(
        "Self-influence: how many times faster than kronfluence, the least of three models",
        Measured("speed", "speed"),
        least("ratio", SELF_INFLUENCE),
        plain,
    ),
    Line(
        "Working backdoor attacks that raise an alarm, in percent",
        POISON,
        one(task="all/all", method="winnow", metric="alarm"),
        percent,
    ),
    Line(
        "Clean sets that raise a false alarm, in percent",
        POISON,
        one(task="all", metric="false_alarm_on_clean_data"),
        percent,
    ),
    Line(
        "Useless changes that verification calls `improved`, in percent, the worst of all kinds (at most 5)",
        Measured("null_test", "null-test"),
        most_improved,
        percent,
    ),
    Line(
        "Reviews that keep the promised precision, in percent, the least of eight (at least 95)",
        Measured("promises", "promises"),
        least_kept,
        percent,
    ),
)


def leaderboard(folder: Path = RESULTS) -> str:
    """The table."""
    return table(["what", "value (interval)", "measured by"], [line.cells(folder) for line in LINES])


def with_leaderboard(page: str, folder: Path) -> str:
    """The page with its leaderboard made anew."""
    return SECTION.sub(lambda found: f"{found[1]}\n{leaderboard(folder)}\n\n{found[2]}", page)
