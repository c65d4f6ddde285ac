"""From what methods say about rows, and from retrainings, to rows of results: method, metric, value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import t
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from benchmarks.detection_findings import Finding
from benchmarks.one_file.audits import FLAGGED, Audited
from benchmarks.one_file.configurations import OneFile
from benchmarks.one_file.peers import Opinion

Row = dict[str, Any]
Bins = Sequence[Sequence[float]]
"""What `bins_of` gives."""

BINS = 10
WORSE_BY = 0.005
"""An arm is worse than as given when its mean is lower by more than this and the paired interval is below 0."""


def row(method: str, metric: str, value: Any, **more: Any) -> Row:
    return {"method": method, "metric": metric, "value": value} | more


def finding_rows(finding: Finding, wrong: np.ndarray) -> list[Row]:
    """Average precision, and precision, recall, F1 and share of what is flagged, over the rows that were judged."""
    judged = np.isfinite(finding.suspicion)
    count, wrong_there = int(judged.sum()), wrong[judged]
    found = []
    if wrong_there.any():
        value = float(average_precision_score(wrong_there, finding.suspicion[judged]))
        found.append(row(finding.method, "average_precision", value, n=count))
    if FLAGGED in finding.flags:
        flagged = finding.flags[FLAGGED][judged]
        found.append(row(finding.method, "flagged_share", float(flagged.mean()), n=count))
        if wrong_there.any():
            scores = precision_recall_fscore_support(wrong_there, flagged, average="binary", zero_division=0)
            for metric, value in zip(("precision", "recall", "f1"), scores):
                found.append(row(finding.method, metric, float(value), n=count))
    return found


def peer_rows(opinion: Opinion, wrong: np.ndarray) -> list[Row]:
    method = opinion.finding.method
    found = finding_rows(opinion.finding, wrong)
    if opinion.noise is not None:
        found += noise_rows(method, {"value": opinion.noise}, float(wrong.mean()), len(wrong))
    return found + [row(method, metric, value) for metric, value in opinion.facts.items()]


def noise_rows(method: str, estimate: Row | None, truth: float, count: int, suffix: str = "") -> list[Row]:
    """The estimated share of wrong labels, how far it is off, and whether its interval holds the truth.

    Without an estimate the value is null and `noise_estimated` 0.
    """
    estimated = estimate is not None and estimate.get("value") is not None
    found = [row(method, f"noise_estimated{suffix}", float(estimated), n=count)]
    if estimate is None or not estimated:
        return found
    value, low, high = estimate["value"], estimate.get("low"), estimate.get("high")
    found.append(
        row(method, f"noise_estimate{suffix}", value, low=low, high=high, n=count, truth=round(truth, 4))
    )
    found.append(row(method, f"noise_error{suffix}", abs(value - truth), n=count))
    if low is not None and high is not None:
        found.append(row(method, f"noise_interval_holds{suffix}", float(low <= truth <= high), n=count))
    return found


def bins_of(probability: np.ndarray, right: np.ndarray) -> Bins:
    """Ten equally wide bins of probability: rows, sum of the probabilities and rows that are right, of each."""
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    columns = [np.bincount(place, weights, BINS) for weights in (None, probability, right.astype(float))]
    return np.stack(columns, 1).round(4).tolist()


def calibration_error(bins: Bins) -> float:
    """Expected calibration error of `bins_of`: mean |share right − mean probability| of the bins, by their rows."""
    rows, probability, right = np.asarray(bins, dtype=float).T
    return float(np.abs(right - probability).sum() / rows.sum())


def calibration_floor(bins: Bins) -> float:
    """The error that right probabilities are expected to show with so few rows (mean of a half-normal in each bin)."""
    rows, probability, _ = np.asarray(bins, dtype=float).T
    mean = probability / np.maximum(rows, 1)
    return float(np.sqrt(2 / np.pi * rows * mean * (1 - mean)).sum() / rows.sum())


def naming_row(named: str | None, bad: str | None) -> Row:
    """Whether exactly the bad source is named, or none where there is none."""
    return row("winnow", "source_named", float(named == bad), n=1, named=named, bad=bad)


def audit_rows(file: OneFile, audited: Audited, bad: str | None) -> list[Row]:
    """All that an audit says, against the truth. bad: the source with more wrong labels, if there is one."""
    wrong, facts = file.wrong, audited.facts
    found = [each for finding in audited.findings for each in finding_rows(finding, wrong)]
    train = audited.train
    found += noise_rows("winnow", facts["estimated_noise"], float(wrong[train].mean()), int(train.sum()))
    if facts["estimated_noise_file"] is not None:
        found += noise_rows(
            "winnow", facts["estimated_noise_file"], float(wrong.mean()), len(wrong), suffix="_file"
        )
    found += suggestion_rows(file.true, audited)
    if file.noisy.sources is not None:
        found.append(naming_row(facts["worst_source"], bad))
    found += [row(method, "error_true", value) for method, value in facts["error_true"].items()]
    found.append(row("winnow", "verdict", facts["verdict"]))
    found.append(row("winnow", "seconds", facts["seconds"]))
    found += [row("winnow", f"seconds_{stage}", seconds) for stage, seconds in facts["timings"].items()]
    return found


def suggestion_rows(true: pa.Array, audited: Audited) -> list[Row]:
    """Calibration of the probability of suggestions: of all rows that have one, and of the flagged ones."""
    known = np.isfinite(audited.suggested_probability) & audited.suggested.is_valid().to_numpy(
        zero_copy_only=False
    )
    equal = pc.equal(audited.suggested.cast(true.type), true).fill_null(False).to_numpy(zero_copy_only=False)
    found = []
    for metric, which in (
        ("calibration_error_all", known),
        ("calibration_error", known & audited.flagged),
    ):
        if which.any():
            bins = bins_of(audited.suggested_probability[which], equal[which])
            found.append(
                row(
                    "winnow",
                    metric,
                    calibration_error(bins),
                    n=int(which.sum()),
                    bins=bins,
                    floor=calibration_floor(bins),
                )
            )
    return found


def accuracy_rows(scores: dict[str, list[float]], suffix: str = "") -> list[Row]:
    """Accuracy on true labels by arm, its paired difference to as given with a t interval, and whether it got worse."""
    found = []
    given = np.array(scores["as_given"])
    for arm, of_arm in scores.items():
        found.append(row(arm, f"accuracy_true{suffix}", float(np.mean(of_arm)), n=len(of_arm)))
        if arm == "as_given":
            continue
        mean, low, high = paired(np.array(of_arm) - given)
        found.append(row(arm, f"accuracy_gain{suffix}", mean, low=low, high=high, n=len(of_arm)))
        found.append(row(arm, f"got_worse{suffix}", float(mean < -WORSE_BY and high < 0)))
        found.append(row(arm, f"lower_at_all{suffix}", float(mean < 0)))
    return found


def paired(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % t interval over seeds."""
    mean = float(differences.mean())
    spread = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    half = float(t.ppf(0.975, len(differences) - 1)) * spread
    return mean, mean - half, mean + half
