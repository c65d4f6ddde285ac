"""Winnow's part of the detection benchmark: an audit up to its decisions, its variants, and single signals."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.detection_findings import Finding
from benchmarks.inline import Inline
from pipeline.config import AuditConfig
from pipeline.detection.signals.registry import all_signals
from pipeline.detection.suspicion import SignalValues, suspicion
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text
from pipeline.stages.repeats import repeat
from pipeline.stages.stages import STAGES
from pipeline.text.decisions import Decision

SIGNALS = tuple(each.name for each in all_signals() if each.counts and each.of_training is not None)
"""The signals of the audited training that count."""
SCORES = ("self_influence", "validation_harm", "final_loss")

VARIANTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "winnow_no_halves": (
        {"detection.halves": False},
        (
            "training/main",
            "checkpoints/*.safetensors",
            "checkpoints/trajectory.json",
            "factors/*.safetensors",
            "factors/scale.json",
        ),
    ),
    "winnow_no_validation": (
        {"data.validation": None, "data.validation_is_clean": False, "data.holdout_is_clean": True},
        (
            "training",
            "checkpoints",
            "factors/segment-0.safetensors",
            "scores",
        ),
    ),
}
"""What changes, and what the change does not touch: it is taken over from the audit instead of made again."""


def audit(config: AuditConfig, path: Path) -> AuditContext:
    """All stages up to the decisions."""
    write_text(path / "config.yaml", config.to_yaml())
    context = AuditContext(config, RunDirectory(path), Inline(config.compute), repeat=repeat)
    for stage in STAGES:
        context.run.finish_stage(stage.name, config.hash(), {"facts": stage.run(context)})
        if stage.name == "detect":
            break
    return context


def variant(context: AuditContext, name: str) -> AuditContext:
    """An audit of its own, which takes over what does not depend on the change."""
    changes, kept = VARIANTS[name]
    path = context.run.path.with_name(name)
    for pattern in kept:
        for source in context.run.path.glob(pattern):
            take_over(source, path / source.relative_to(context.run.path))
    return audit(context.config.with_changes(changes), path)


def take_over(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link)
    else:
        os.link(source, target)


def judged_by_winnow(method: str, context: AuditContext) -> Finding:
    """The ranking of the train rows and the decisions that an audit proposes about them."""
    rows = train_rows(context, ["suspicion", "decision", "proposed"])
    proposed = pc.coalesce(rows["proposed"], rows["decision"])
    flags = {
        "remove": pc.equal(proposed, Decision.REMOVE.word).to_numpy(),
        "remove + review": pc.not_equal(proposed, Decision.KEEP.word).to_numpy(),
    }
    return Finding(method, rows["suspicion"].to_numpy(), flags)


def train_rows(context: AuditContext, columns: list[str]) -> pa.Table:
    return pq.read_table(context.run / "rows.parquet", columns=columns, filters=pc.field("split") == "train")


def cost(context: AuditContext) -> float:
    """Trainings beyond the user's own, in trainings on all rows for all epochs."""
    facts, detection = context.run.facts("train"), context.config.detection
    if detection.halves:
        return 2.0 * detection.repeats - 1  # two halves each, and the further main runs
    window = 2 * facts["early_epoch"]  # trained again for its checkpoints, unless it is the whole run
    return float(window / facts["epochs"]) if window < facts["epochs"] else 0.0


def single_rankings(context: AuditContext) -> Iterator[Finding]:
    """Every signal and score as a ranking of its own, and the rest without each signal (weights as they are)."""
    rows = train_rows(context, list(SCORES))
    table = pq.read_table(context.run / "signals.parquet").slice(0, rows.num_rows)  # train rows come first
    facts = context.run.facts("detect")
    signals = [
        SignalValues(name, table[name].to_numpy(), name not in facts["low_is_suspicious"], weight=weight)
        for name, weight in facts["weights"].items()
    ]
    for signal in signals:
        yield Finding(signal.name, signal.suspicious)
        others = [other for other in signals if other is not signal]
        yield Finding(f"without_{signal.name}", suspicion(others))
    for name in SCORES:
        yield Finding(name, rows[name].to_numpy())
