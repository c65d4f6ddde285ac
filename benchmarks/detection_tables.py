"""The tables of the detection benchmark: targets, rankings, decisions, holdout, estimates and cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.detection_audit import SIGNALS
from benchmarks.markdown import Rows, table

METHODS = {
    "winnow": "**winnow**",
    "winnow_no_halves": "winnow without halves",
    "winnow_no_validation": "winnow without validation rows",
    **{f"without_{name}": f"winnow without {name}" for name in SIGNALS},
    "cleanlab": "cleanlab, 5 folds",
    "cleanlab_early": "cleanlab, 5 folds stopped early",
    "aum": "AUM",
    "knn": "k-NN, K = 20",
    "knn_shapley_5": "kNN-Shapley, K = 5",
    "knn_shapley_10": "kNN-Shapley, K = 10",
    "knn_shapley_20": "kNN-Shapley, K = 20",
    "confidence_agreement": "agreement by final confidence",
    "final_loss": "final loss",
    **{name: f"signal: {name}" for name in SIGNALS},
    "self_influence": "score: self_influence",
    "validation_harm": "score: validation_harm",
    "as_given": "as given",
}
MAIN = (
    "winnow",
    "winnow_no_halves",
    "winnow_no_validation",
    "cleanlab",
    "cleanlab_early",
    "aum",
)
SENSES = {"<": "<", "<=": "≤", ">=": "≥"}
WORDS = {
    "average_precision": "average precision",
    "share_below_slack": "share of configurations more than .005 below",
    "f1": "F1",
    "precision": "precision",
    "flagged_share": "share of clean rows flagged",
    "share_of_tasks_worse": "share of dataset × noise with a lower holdout accuracy",
    "holdout_gain": "holdout accuracy",
}


class Found:
    """The lines by scope, method, metric and flags; the scopes and methods in the order in which they come."""

    def __init__(self, rows: Rows):
        means = [row for row in rows if "target" not in row and row["metric"] != "holdout_gain"]
        self._rows = {self.key(row): row for row in means}
        scopes = dict.fromkeys(row["task"] for row in means)
        self.datasets = [scope for scope in scopes if not scope.startswith("all")]
        self.noises = [scope for scope in scopes if scope.startswith("all/")]
        self.flags = dict.fromkeys((row["method"], row["flags"]) for row in means if "flags" in row)

    @staticmethod
    def key(row: dict[str, Any]) -> tuple[str, str, str, str | None]:
        return row["task"], row["method"], row["metric"], row.get("flags")

    def get(self, scope: str, method: str, metric: str, flags: str | None = None) -> dict[str, Any] | None:
        return self._rows.get((scope, method, metric, flags))

    def number(self, scope: str, method: str, metric: str, flags: str | None = None) -> str:
        row = self.get(scope, method, metric, flags)
        return "–" if row is None else f"{row['value']:.3f}"

    def cells(self, metric: str) -> Callable[[str, str], str]:
        """Scope and method to a number."""

        def cell(scope: str, method: str) -> str:
            return self.number(scope, method, metric)

        return cell


def detection(rows: Rows) -> str:
    found = Found(rows)
    parts = (
        (
            "Against the targets (mean difference, 95 % bootstrap interval over configurations):",
            targets(rows),
        ),
        ("Average precision by dataset, mean over noises and seeds:", by_dataset(found)),
        ("Average precision by noise, mean over the classification datasets:", by_noise(found)),
        ("What is flagged by default (precision / recall / F1; classification):", decisions(found)),
        ("Holdout accuracy (concrete: R²) of the same model, noisy configurations:", holdout(found)),
        (
            "Weighted accuracy drop (higher: the rows thought best of matter more; uniform, 20 %):",
            drops(found),
        ),
        ("Estimated share of wrong labels (classification with an estimate):", estimates(found)),
        ("Cost in trainings beyond the user's own:", costs(found)),
    )
    count = next(row for row in rows if row["metric"] == "configurations")
    first = f"{count['value']} of {count['planned']} configurations are in."
    return "\n\n".join([first, *(f"{title}\n\n{content}" for title, content in parts if content)])


def targets(rows: Rows) -> str:
    lines = []
    for row in rows:
        if "target" in row:
            interval = f" ({row['low']:.3f} – {row['high']:.3f})" if "low" in row else ""
            what = f"{row['method'].replace(' - ', ' − ')}: {WORDS[row['metric']]}"
            what += f", {row['flags']}" if "flags" in row else ""
            target = f"{SENSES[row['sense']]} {row['target']:g}"
            lines.append(
                [
                    row["task"],
                    what,
                    f"{row['value']:.3f}{interval}",
                    target,
                    "yes" if row["met"] else "**no**",
                ]
            )
    return table(["scope", "what", "value", "target", "met"], lines)


def by_method(
    methods: Sequence[str], scopes: Sequence[str], cell: Callable[[str, str], str]
) -> list[list[str]]:
    """A line per method that has a value anywhere."""
    lines = [[METHODS[method], *(cell(scope, method) for scope in scopes)] for method in methods]
    return [line for line in lines if any(text != "–" for text in line[1:])]


def by_dataset(found: Found) -> str:
    scopes = ["all", *found.datasets]
    return table(
        ["method", "all classification", *found.datasets],
        by_method(list(METHODS), scopes, found.cells("average_precision")),
    )


def by_noise(found: Found) -> str:
    scopes = [scope for scope in found.noises if found.get(scope, "winnow", "average_precision")]
    head = ["method", *(scope.removeprefix("all/") for scope in scopes)]
    return table(head, by_method([*MAIN, *SIGNALS], scopes, found.cells("average_precision")))


def decisions(found: Found) -> str:
    scopes = [scope for scope in ("all", "all/uniform/0.05", "all/uniform/0.1") if found.noises]

    def three(scope: str, method: str, flags: str) -> str:
        return " / ".join(
            found.number(scope, method, metric, flags) for metric in ("precision", "recall", "f1")
        )

    lines = [
        [
            f"{METHODS[method]}: {flags}",
            *(three(scope, method, flags) for scope in scopes),
            found.number("all", method, "flagged_share", flags),
        ]
        for method, flags in found.flags
    ]
    heads = ["all noisy", "uniform 5 %", "uniform 10 %", "flagged without planted noise"]
    return table(["method: flags", *heads], lines)


def holdout(found: Found) -> str:
    scopes = ["all", *found.datasets]

    def cell(scope: str, arm: str) -> str:
        accuracy = found.number(scope, arm, "holdout_accuracy")
        return found.number(scope, arm, "holdout_r2") if accuracy == "–" else accuracy

    lines = by_method(("as_given", "winnow", "cleanlab"), scopes, cell)
    return table(["after", "all classification", *found.datasets], lines)


def drops(found: Found) -> str:
    scopes = [
        scope for scope in ("all", *found.datasets) if found.get(scope, "winnow", "weighted_accuracy_drop")
    ]
    if not scopes:
        return ""
    cell = found.cells("weighted_accuracy_drop")
    return table(["method", *scopes], by_method(list(METHODS), scopes, cell))


def estimates(found: Found) -> str:
    lines = []
    for scope in ("all", *found.noises):
        row = found.get(scope, "winnow", "estimated_noise")
        if row is not None:
            error = found.number(scope, "winnow", "estimated_noise_error")
            lines.append(
                [
                    scope.removeprefix("all/"),
                    f"{row['planted']:.3f}",
                    f"{row['value']:.3f}",
                    error,
                    str(row["n"]),
                ]
            )
    return table(["noise", "planted", "estimated", "mean absolute error", "n"], lines)


def costs(found: Found) -> str:
    return table(["method", "trainings"], by_method(MAIN, ["all"], found.cells("trainings_beyond")))
