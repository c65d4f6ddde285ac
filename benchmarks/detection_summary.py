"""From what methods said about single configurations to means, paired differences and targets.

A line's `task` is its scope: `all` (all classification configurations), a dataset, `all/NOISE/RATE`, or
DATASET/NOISE/RATE. Rankings and flags are summed up over the noisy configurations, `flagged_share` over those
without planted noise. Every configuration has the same weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from benchmarks.detection_audit import SIGNALS
from benchmarks.detection_drop import weighted_accuracy_drop
from benchmarks.detection_findings import Finding

Row = dict[str, Any]

RESAMPLES = 10_000
DEFAULT = ("cleanlab", "default filter")
REMOVE, REVIEW = ("winnow", "remove"), ("winnow", "remove + review")
SLACK = 0.005
LEADS = {"cleanlab": 0.10, "cleanlab_early": 0.05, "aum": 0.07} | dict.fromkeys(SIGNALS, 0.0)
"""By how much Winnow's mean average precision is to be above that of others."""
LEAD_WITHOUT_HALVES = 0.09
MOST_BELOW = 0.03
PRECISION = {0.1: 0.7, 0.05: 0.53}
FLAGGED_ON_CLEAN = 0.032
ARMS = ("as_given", "winnow", "cleanlab")


@dataclass(frozen=True)
class Measured:
    """One configuration. wrong: bool `[rows]`; facts and, None where not done, holdout and removal: see
    benchmarks/detection.py.
    """

    task: str
    noise: str
    rate: float
    seed: int
    regression: bool
    findings: dict[str, Finding]
    wrong: np.ndarray
    facts: dict[str, Any]
    holdout: dict[str, float] | None
    removal: dict[str, list[float]] | None = None

    @property
    def noisy(self) -> bool:
        return self.noise != "none"

    @property
    def kind(self) -> str:
        return f"{self.noise}/{self.rate:g}"

    @cached_property
    def average_precision(self) -> dict[str, float]:
        """By method; only where labels are wrong."""
        return {
            method: float(average_precision_score(self.wrong, finding.suspicion))
            for method, finding in self.findings.items()
        }

    @cached_property
    def flags(self) -> dict[tuple[str, str], dict[str, float]]:
        """By method and name of the flags: their share of the rows, and how well they fit."""
        found = {}
        for method, finding in self.findings.items():
            for name, flagged in finding.flags.items():
                precision, recall, f1, _ = precision_recall_fscore_support(
                    self.wrong, flagged, average="binary", zero_division=0
                )
                found[method, name] = {
                    "precision": float(precision),
                    "recall": float(recall),
                    "f1": float(f1),
                    "flagged_share": float(flagged.mean()),
                }
        return found


def summarise(done: Sequence[Measured], planned: int) -> list[Row]:
    """All lines: how many of the planned configurations are in, then what has a target, then means."""
    scopes = scoped(done)
    count = {"task": "all", "method": "all", "metric": "configurations", "value": len(done)}
    rows = [count | {"planned": planned}, *targets(done)]
    for scope, members in scopes.items():
        noisy = [each for each in members if each.noisy]
        rows += rankings(scope, noisy)
        rows += flag_rows(scope, noisy, ("precision", "recall", "f1"))
        rows += flag_rows(scope, [each for each in members if not each.noisy], ("flagged_share",))
        rows += holdout_rows(scope, noisy)
        rows += drop_rows(scope, noisy)
        rows += noise_rows(scope, members)
    rows += cost_rows(scopes["all"]) if "all" in scopes else []
    return rows


def scoped(done: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Members of every scope but the smallest; regression has scopes of its own and is not in `all`."""
    found: dict[str, list[Measured]] = {}
    for each in done:
        names = [each.task] if each.regression else ["all", each.task, f"all/{each.kind}"]
        for name in names:
            found.setdefault(name, []).append(each)
    return found


def line(task: str, method: str, metric: str, values: Iterable[float], **more: Any) -> Row:
    """The mean of values and how many there are."""
    each = list(values)
    return {
        "task": task,
        "method": method,
        "metric": metric,
        "value": float(np.mean(each)),
        "n": len(each),
    } | more


def rankings(scope: str, noisy: Sequence[Measured]) -> list[Row]:
    methods = dict.fromkeys(method for each in noisy for method in each.findings)
    return [
        line(scope, method, "average_precision", [each.average_precision[method] for each in noisy])
        for method in methods
        if all(method in each.findings for each in noisy)
    ]


def flag_rows(scope: str, members: Sequence[Measured], metrics: Sequence[str]) -> list[Row]:
    kinds = dict.fromkeys(kind for each in members for kind in each.flags)
    return [
        line(scope, kind[0], metric, [each.flags[kind][metric] for each in members], flags=kind[1])
        for kind in kinds
        for metric in metrics
    ]


def holdout_rows(scope: str, noisy: Sequence[Measured]) -> list[Row]:
    metric = "holdout_r2" if any(each.regression for each in noisy) else "holdout_accuracy"
    measured = [each.holdout for each in noisy if each.holdout is not None]
    return [line(scope, arm, metric, [each[arm] for each in measured]) for arm in ARMS if measured]


def drop_rows(scope: str, noisy: Sequence[Measured]) -> list[Row]:
    removals = [each.removal for each in noisy if each.removal is not None]
    return [
        line(
            scope,
            method,
            "weighted_accuracy_drop",
            [weighted_accuracy_drop(removal[method]) for removal in removals],
        )
        for method in (removals[0] if removals else ())
    ]


def noise_rows(scope: str, members: Sequence[Measured]) -> list[Row]:
    """The estimated share of wrong labels beside the planted one, and the mean absolute error."""
    known = [each for each in members if each.facts["estimated_noise"] is not None]
    if not known:
        return []
    estimated = np.array([each.facts["estimated_noise"] for each in known])
    planted = np.array([each.wrong.mean() for each in known])
    return [
        line(scope, "winnow", "estimated_noise", estimated, planted=float(planted.mean())),
        line(scope, "winnow", "estimated_noise_error", np.abs(estimated - planted)),
    ]


def cost_rows(members: Sequence[Measured]) -> list[Row]:
    """Trainings beyond the user's own, in trainings on all rows for all epochs."""
    methods = members[0].facts["trainings_beyond"]
    return [
        line("all", method, "trainings_beyond", [each.facts["trainings_beyond"][method] for each in members])
        for method in methods
    ]


def targets(done: Sequence[Measured]) -> list[Row]:
    """Everything that is held against a target."""
    classes = [each for each in done if not each.regression]
    noisy = [each for each in classes if each.noisy]
    clean = [each for each in classes if not each.noisy]
    datasets = list(dict.fromkeys(each.task for each in noisy))
    rows: list[Row] = []
    if noisy:
        rows += [lead("all", noisy, "winnow", other, least) for other, least in LEADS.items()]
        rows.append(lead("all", noisy, "winnow_no_halves", "cleanlab", LEAD_WITHOUT_HALVES))
        below = [gap(each, "winnow", "cleanlab") < -SLACK for each in noisy]
        rows.append(aim(line("all", "winnow - cleanlab", "share_below_slack", below), "<=", MOST_BELOW))
        rows += [lead(name, of(noisy, name), "winnow", "cleanlab", -SLACK) for name in datasets]
        rows += [f1_lead(name, of(noisy, name)) for name in datasets]
        rows += [
            row for row in (precision_at(noisy, rate, least) for rate, least in PRECISION.items()) if row
        ]
    if clean:
        shares = [each.flags[REMOVE]["flagged_share"] for each in clean]
        rows.append(
            aim(line("all", "winnow", "flagged_share", shares, flags="remove"), "<", FLAGGED_ON_CLEAN)
        )
    rows += holdout_targets(noisy)
    return rows


def of(members: Sequence[Measured], task: str) -> list[Measured]:
    return [each for each in members if each.task == task]


def aim(row: Row, sense: str, target: float) -> Row:
    """The line with its target and whether it is met."""
    met = {"<": row["value"] < target, "<=": row["value"] <= target, ">=": row["value"] >= target}[sense]
    return row | {"sense": sense, "target": target, "met": bool(met)}


def gap(each: Measured, method: str, other: str) -> float:
    return each.average_precision[method] - each.average_precision[other]


def lead(scope: str, noisy: Sequence[Measured], method: str, other: str, least: float) -> Row:
    """The mean difference in average precision with its paired bootstrap interval."""
    each = [gap(one, method, other) for one in noisy]
    row = line(scope, f"{method} - {other}", "average_precision", each, **bootstrap(each))
    return aim(row, ">=", least)


def bootstrap(values: Sequence[float]) -> dict[str, float]:
    """95 % percentile interval of the mean; configurations are drawn with replacement."""
    random = np.random.RandomState(0)
    drawn = random.randint(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.asarray(values)[drawn].mean(1), [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def f1_lead(scope: str, noisy: Sequence[Measured]) -> Row:
    each = [one.flags[REVIEW]["f1"] - one.flags[DEFAULT]["f1"] for one in noisy]
    return aim(
        line(scope, "winnow - cleanlab", "f1", each, flags="remove + review", **bootstrap(each)), ">=", 0.0
    )


def precision_at(noisy: Sequence[Measured], rate: float, least: float) -> Row | None:
    """Precision of what is removed under uniform noise of this rate."""
    values = [each.flags[REMOVE]["precision"] for each in noisy if each.kind == f"uniform/{rate:g}"]
    if not values:
        return None
    return aim(line(f"all/uniform/{rate:g}", "winnow", "precision", values, flags="remove"), ">=", least)


def holdout_targets(noisy: Sequence[Measured]) -> list[Row]:
    """Cleaned against as given for every DATASET/NOISE/RATE, and against cleanlab's cleaning on average."""
    cells: dict[str, list[float]] = {}
    given, against = [], []
    for each in noisy:
        if each.holdout is not None:
            given.append(each.holdout["winnow"] - each.holdout["as_given"])
            against.append(each.holdout["winnow"] - each.holdout["cleanlab"])
            cells.setdefault(f"{each.task}/{each.kind}", []).append(given[-1])
    if not cells:
        return []
    worse = [float(np.mean(values)) < 0 for values in cells.values()]
    return [
        line("all", "winnow - as_given", "holdout_gain", given, **bootstrap(given)),
        aim(line("all", "winnow - as_given", "share_of_tasks_worse", worse), "<=", 0.0),
        aim(line("all", "winnow - cleanlab", "holdout_gain", against, **bootstrap(against)), ">=", 0.0),
        *(line(task, "winnow - as_given", "holdout_gain", values) for task, values in cells.items()),
    ]


def show(rows: Sequence[Row]) -> None:
    """Print what has a target, and mean average precisions."""
    for row in rows:
        if "target" in row:
            interval = f" [{row['low']:.3f}, {row['high']:.3f}]" if "low" in row else ""
            what = " ".join([row["task"], row["method"], row["metric"], row.get("flags", "")])
            verdict = "met" if row["met"] else "MISSED"
            print(
                f"{what:68s} {row['value']:6.3f}{interval:18s} {row['sense']} {row['target']:<6g} {verdict}"
            )
    for row in rows:
        if row["task"] == "all" and row["metric"] == "average_precision" and "target" not in row:
            print(f"{row['method']:28s} {row['value']:.3f}  ({row['n']})")
