"""The tables of the benchmark `one_file` in docs/measurements/one-file.md."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from benchmarks.markdown import Rows, table
from benchmarks.one_file.configurations import SEEDS
from benchmarks.one_file.measures import calibration_error, calibration_floor
from benchmarks.one_file.peers import MAIN
from benchmarks.one_file.sets import SETS
from benchmarks.one_file.summary import usual_peer_names

ACCURACY_ARMS = ("planted", "removed", "relabelled", "mixed", "exported", "cleanlab")


def one_file(rows: Rows) -> str:
    """Targets; then per set Winnow beside its peers; then accuracy on true labels after cleaning."""
    return "\n\n".join(
        part for part in (targets(rows), rankings(rows), estimates(rows), accuracies(rows)) if part
    )


def targets(rows: Rows) -> str:
    lines = [
        [
            row["metric"] + (f" ({row['set']})" if "set" in row else ""),
            f"{row['value']:.3f}",
            f"{row['target']:.3f}",
            "yes" if row["met"] else f"missed by {abs(row['value'] - row['target']):.3f}",
            str(row["n"]),
        ]
        for row in rows
        if row["task"] == "all"
    ]
    return table(["what", "value", "target", "met", "n"], lines) if lines else ""


def selected(rows: Rows, dataset: str, method: str, metric: str, parts: Iterable[str]) -> list[float]:
    """Values of a set over its configurations; not those of the further seeds for naming sources."""
    return [
        row["value"]
        for row in rows
        if row["task"].partition("/")[0] == dataset
        and (row["method"], row["metric"]) == (method, metric)
        and row.get("part") in parts
        and row.get("seed", 0) < SEEDS
        and row["value"] is not None
    ]


def cell(found: list[float], digits: int = 3) -> str:
    return f"{np.mean(found):.{digits}f}" if found else "–"


def rankings(rows: Rows) -> str:
    """Means over the noisy configurations of a set."""
    peers = usual_peer_names(rows)
    lines = []
    for dataset, known in SETS.items():
        values = [cell(selected(rows, dataset, "winnow", "average_precision", ["audit"]))]
        values.append(cell(selected(rows, dataset, "panel", "average_precision", ["audit"])))
        values += [cell(selected(rows, dataset, peer, "average_precision", ["peers"])) for peer in peers]
        for method, part in (("winnow", "audit"), ("winnow_remove", "audit"), (MAIN[known.kind], "peers")):
            scores = [
                cell(selected(rows, dataset, method, m, [part]), 2) for m in ("precision", "recall", "f1")
            ]
            values.append(" / ".join(scores))
        if any(value.strip(" –/") for value in values):
            lines.append([dataset, *values])
    if not lines:
        return ""
    head = ["set", "AP winnow", "panel", *peers, "P / R / F1 remove + review", "remove", "cleanlab"]
    return table(head, lines)


def estimates(rows: Rows) -> str:
    lines = []
    for dataset in SETS:
        metrics = ("noise_estimated", "noise_error", "noise_interval_holds", "seconds")
        found = [selected(rows, dataset, "winnow", metric, ["audit"]) for metric in metrics]
        if any(found):
            lines.append([dataset, *map(cell, found), *calibration(rows, dataset)])
    if not lines:
        return ""
    head = ["set", "estimated", "error", "interval holds", "seconds", "calibration error", "if it were right"]
    return table([*head, "flagged rows"], lines)


def calibration(rows: Rows, dataset: str) -> list[str]:
    """Calibration error over the flagged rows of all noisy files of a set, what right probabilities would show, n."""
    bins = [
        np.array(row["bins"])
        for row in rows
        if row.get("part") == "audit"
        and row["metric"] == "calibration_error"
        and row["task"].startswith(f"{dataset}/")
        and "/none/" not in row["task"]
    ]
    if not bins:
        return ["–"] * 3
    total = np.sum(bins, axis=0).tolist()
    count = int(sum(line[0] for line in total))
    return [f"{calibration_error(total):.3f}", f"{calibration_floor(total):.3f}", f"{count:,}"]


def accuracies(rows: Rows) -> str:
    """Points gained on test rows with true labels, one line per configuration that was retrained."""
    found: dict[tuple[str, int], dict[tuple[str, str], object]] = {}
    for row in rows:
        if row.get("part") in ("gains", "core"):
            found.setdefault((row["task"], row["seed"]), {})[row["method"], row["metric"]] = row["value"]
    lines = []
    for (task, seed), values in found.items():
        given = values.get(("as_given", "accuracy_true"))
        if given is None:
            continue
        gains = [values.get((arm, "accuracy_gain")) for arm in ACCURACY_ARMS]
        texts = ["–" if gain is None else f"{100 * float(str(gain)):+.1f}" for gain in gains]
        verdict = str(values.get(("winnow", "verdict"), "–"))
        lines.append([task, str(seed), f"{100 * float(str(given)):.1f}", *texts, verdict])
    if not lines:
        return ""
    return table(["task", "seed", "as given, %", *ACCURACY_ARMS, "verdict"], lines)
