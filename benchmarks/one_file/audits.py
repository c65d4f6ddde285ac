"""Winnow's part: `winnow init FILE`, an audit by the config that it wrote, and what the run directory then says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.detection_findings import Finding
from benchmarks.detection_tasks import GIVEN
from benchmarks.one_file.arms import Arm, arms_of_decisions, exported_arm
from benchmarks.one_file.configurations import KEY, OneFile
from benchmarks.results import HOME
from pipeline.errors import WinnowError
from pipeline.runs.directory import RunDirectory, read_json
from pipeline.text.decisions import CHANGED, Decision

ROOT = HOME.parent
RANKING_ONLY = ("verification.seeds=0", "verification.fidelity=0")
WINNOW, REMOVE, PANEL = "winnow", "winnow_remove", "panel"
FLAGGED = "flagged"
NOT_SIGNALS = ("row_key",)


@dataclass(frozen=True)
class Audited:
    """What an audit says about the rows of the file, in the file's order.

    judged: bool `[rows]`, the row is in rows.parquet; train: bool `[rows]`, with the role train. suggested: the
    suggested label or null; suggested_probability: NaN where there is none; flagged: bool `[rows]`.
    """

    findings: list[Finding]
    judged: np.ndarray
    train: np.ndarray
    flagged: np.ndarray
    suggested: pa.Array
    suggested_probability: np.ndarray
    arms: dict[str, Arm]
    facts: dict[str, Any]


def init(file: Path, config: Path) -> None:
    """`winnow init FILE`. Raises WinnowError with what it said when it fails."""
    run_command(["-m", "flows.cli", "init", str(file), "--output", str(config)])


def audit(file: OneFile, config: Path, run_path: Path, settings: tuple[str, ...] = ()) -> Audited:
    """An audit by the config and `settings` (KEY=VALUE), in a process of its own.

    Raises WinnowError with what it said when it fails.
    """
    begin = time.perf_counter()
    run_command(["-m", "benchmarks.one_file.audit_once", str(config), str(run_path), *settings])
    return read_audit(file, run_path, time.perf_counter() - begin)


def run_command(arguments: list[str]) -> None:
    """Python with these arguments, on the code of this checkout."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise WinnowError(" ".join((done.stderr or done.stdout).strip().splitlines()[-3:])[:500])


def read_audit(file: OneFile, run_path: Path, seconds: float) -> Audited:
    """seconds: what the audit took as a whole."""
    run, count = RunDirectory(run_path), file.rows.num_rows
    rows = pq.read_table(run / "rows.parquet")
    places = pc.index_in(rows["row_key"], value_set=file.rows[KEY].combine_chunks()).to_numpy()
    back = np.full(count, -1)
    back[places] = np.arange(len(places))
    order = pa.array(back, mask=back < 0)  # null where the row is in none of the lines
    lines = rows.take(order)
    judged = back >= 0
    proposals = proposals_of(lines)
    wrong = pc.is_in(proposals, pa.array(CHANGED)).to_numpy(zero_copy_only=False)
    flagged = judged & pc.not_equal(proposals, Decision.KEEP.word).fill_null(False).to_numpy(
        zero_copy_only=False
    )
    suspicion = as_floats(lines["suspicion"])
    findings = [
        Finding(WINNOW, suspicion, {FLAGGED: flagged}),
        Finding(REMOVE, suspicion, {FLAGGED: wrong}),
        *signal_findings(run, rows, order),
    ]
    panel = panel_opinions(run_path, rows)
    if panel is not None:
        against = np.where(judged, panel[0][np.maximum(back, 0)], np.nan)
        findings.append(Finding(PANEL, against))
    predicted = {WINNOW: rows["predicted_label"], PANEL: panel[1] if panel is not None else None}
    given = file.rows[GIVEN].combine_chunks()
    arms = arms_of_decisions(given, proposals, lines)
    summary = read_json(run / "report/summary.json")
    exported = exported_arm(run, file)
    return Audited(
        findings,
        judged,
        judged & pc.equal(lines["split"], "train").fill_null(False).to_numpy(zero_copy_only=False),
        flagged,
        lines["suggested_label"].combine_chunks(),
        as_floats(lines["suggested_probability"]),
        arms | ({} if exported is None else {"exported": exported}),
        facts_of(run, summary)
        | {"seconds": seconds, "error_true": errors_on_true_labels(file, order, predicted)},
    )


def proposals_of(lines: pa.Table) -> pa.Array:
    """What the rule proposes for each row, before a gate turned proposals into reviews."""
    decided = lines["decision"].combine_chunks()
    if "proposed" not in lines.column_names:
        return decided
    return pc.coalesce(lines["proposed"].combine_chunks(), decided)


def as_floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64()).combine_chunks().fill_null(np.nan).to_numpy(zero_copy_only=False)


def signal_findings(run: RunDirectory, rows: pa.Table, order: pa.Array) -> Iterator[Finding]:
    """Every column of signals.parquet, which has the lines of rows.parquet, as a ranking of its own."""
    table = pq.read_table(run / "signals.parquet")
    assert table["row_key"].equals(rows["row_key"])
    low = run.facts("detect")["low_is_suspicious"]
    for name in table.column_names:
        if name not in NOT_SIGNALS:
            values = as_floats(table[name].take(order))
            yield Finding(name, -values if name in low else values)


def panel_opinions(run_path: Path, rows: pa.Table) -> tuple[np.ndarray, pa.Array | None] | None:
    """How much the panel's mean speaks against each label, float64, and the class that it prefers (regression: None).

    Both in the order of rows.parquet; None where the code or the run has no panel.
    """
    try:
        from pipeline.panel.opinions import panel_margin, read_panel
    except ImportError:
        return None
    panel = read_panel(run_path)
    if panel is None:
        return None
    from pipeline.training.main_run import role_labels
    from pipeline.workers.worker import run_data

    data, values, preferred = run_data(run_path), [], []
    for role in dict.fromkeys(rows["split"].to_pylist()):
        opinions, labels = np.asarray(panel.mean(role)), role_labels(data, role).numpy()
        if data.encoding.task == "regression":
            values.append(np.abs(opinions.ravel() - labels.ravel()))
        else:
            values.append(-panel_margin(opinions, labels))
            preferred.append(opinions.argmax(axis=1))
    classes = data.encoding.decode_labels(np.concatenate(preferred)) if preferred else None
    return np.concatenate(values), classes


def errors_on_true_labels(
    file: OneFile, order: pa.Array, predicted: dict[str, pa.Array | pa.ChunkedArray | None]
) -> dict[str, float]:
    """The share of rows whose true label is another than that predicted, by who predicts it; classification only."""
    found = {}
    for name, labels in predicted.items():
        if labels is not None and not file.regression:
            equal = pc.equal(labels.take(order).cast(file.true.type), file.true)
            found[name] = 1 - float(pc.mean(pc.cast(equal, pa.float64())).as_py())
    return found


def facts_of(run: RunDirectory, summary: dict[str, Any]) -> dict[str, Any]:
    """The estimate, the named source, the verdict and the seconds of each stage."""
    detect = run.facts("detect")
    verification = read_json(run / "verification.json")
    differences = verification.get("differences") or {}
    return {
        "estimated_noise": detect.get("estimated_noise"),
        "estimated_noise_file": detect.get("estimated_noise_file"),
        "worst_source": named_source(summary),
        "verdict": verification["verdict"],
        "exported": verification.get("exported"),
        "cleaned - as_given": differences.get("cleaned - as_given"),
        "timings": {name: value for name, value in summary["timings"].items() if value is not None},
    }


def named_source(summary: dict[str, Any]) -> str | None:
    """The source that the summary names as the worst (`worst_source`: `{"column", "value", ...}`), if it names one."""
    named = summary.get("worst_source")
    return None if named is None else str(named["value"])
