"""The one list of stages, their fingerprints, and how they are run."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline import __version__
from pipeline.artifacts import Ledger, damage
from pipeline.config import AuditConfig, digest
from pipeline.runs.context import AuditContext
from pipeline.runs.watcher import Watcher
from pipeline.workers.cluster import peak_resident_bytes


@dataclass(frozen=True)
class Stage:
    """A step of the audit.

    function: `module:name` of a `(context) -> facts`; imported when it runs. sections: the parts of the config that
    it depends on. outputs: what it writes in the run directory, removed when it must be done anew. changes: files of
    earlier stages that it rewrites. keeps: outputs whose files depend on the stages before and their names alone, so
    that other settings of the stage itself take them as they are.
    """

    name: str
    function: str
    sections: tuple[str, ...]
    outputs: tuple[str, ...]
    changes: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()

    def run(self, context: AuditContext, **options: Any) -> dict[str, Any]:
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)(context, **options)


STAGES = (
    Stage(
        "prepare", "pipeline.data.prepare:prepare", ("data",), ("catalog.parquet", "encoding.json", "encoded")
    ),
    Stage("train", "pipeline.training.stage:train_stage", ("model", "training"), ("training", "checkpoints")),
    Stage("factors", "pipeline.scoring.factors:factors", ("attribution",), ("factors",)),
    Stage("attribute", "pipeline.scoring.attribute:attribute", (), ("scores",)),
    Stage("panel", "pipeline.panel.stage:panel_stage", (), ("panel",)),
    Stage(
        "detect",
        "pipeline.detection.stage:detect",
        ("detection",),
        ("detection", "signals.parquet", "rows.parquet"),
    ),
    Stage(
        "verify",
        "pipeline.verification.stage:verify",
        ("verification",),
        ("verification", "verification.json"),
        keeps=("verification",),
    ),
    Stage(
        "export",
        "pipeline.export.export:export",
        ("export",),
        ("exported", "cleaned", "cleaned.json", "quarantine"),
        ("rows.parquet",),
    ),
    Stage("report", "pipeline.report.stage:report", (), ("report",)),
)


EXTRA_KEYS: dict[str, tuple[str, ...]] = {
    "prepare": ("compute.chunk_rows", "detection.canaries"),
    "train": ("detection.halves", "compute.device"),
    "panel": ("detection.panel", "detection.panel_folds", "detection.panel_rows", "detection.seed"),
    "export": ("verification.gate",),
    "report": ("name",),
}
"""Single keys of other sections that a stage depends on as well."""


def fingerprints(config: AuditConfig) -> dict[str, str]:
    """Of every stage: its part of the config, the fingerprint of the stage before it and the code's version.

    Raises InputError when a file that the config names is not there.
    """
    from pipeline.data.named_rows import content_hash
    from pipeline.data.prepare import source_fingerprint
    from pipeline.detection.signals.registry import added_signals
    from pipeline.training.recorded import recorded_hash

    tree = config.as_dict()
    previous, found = source_fingerprint(config), {}
    for stage in STAGES:
        part: dict[str, Any] = {section: tree[section] for section in stage.sections}
        for key in EXTRA_KEYS.get(stage.name, ()):
            section, _, name = key.partition(".")
            part[key] = tree[section][name] if name else tree[section]
        if stage.name == "train" and config.training.trajectory is not None:
            part["training"] |= {"trajectory": recorded_hash(config.training.trajectory)}
        if stage.name == "detect":  # by what the files say: a run, and its answers with it, may be moved
            part["detection"] |= {key: content_hash(path) for key, path in named_files(config).items()}
            part |= {"signals": added_signals()} if added_signals() else {}
        if stage.name == "verify" and config.verification.answers is not None:
            part["verification"] |= {"answers": content_hash(config.verification.answers)}
        previous = found[stage.name] = digest([part, previous, __version__])
    return found


def named_files(config: AuditConfig) -> dict[str, str]:
    """Files that a person gave to detection, by their keys: a changed one is judged anew."""
    detection = config.detection
    named = {"trusted": detection.trusted, "answers": detection.answers, "decisions": detection.decisions}
    return {key: path for key, path in named.items() if path is not None}


def run_stage(stage: Stage, context: AuditContext, fingerprint: str, **options: Any) -> bool:
    """Run one stage, with its own options, unless its output with this fingerprint is complete; True if it had to."""
    run = context.run
    if run.is_complete(stage.name, fingerprint):
        return False
    mend_earlier(stage, context)
    before = STAGES[STAGES.index(stage) - 1].name if stage.keeps else None
    run.begin_stage(stage.name, fingerprint, stage.outputs, stage.changes, before, stage.keeps)
    begin = time.perf_counter()
    facts = stage.run(context, **options)
    peak = max(peak_resident_bytes(), context.workers.peak_memory())
    entry = {"seconds": round(time.perf_counter() - begin, 3), "peak_memory_bytes": peak, "facts": facts}
    run.finish_stage(stage.name, fingerprint, entry)
    return True


def mend_earlier(stage: Stage, context: AuditContext) -> None:
    """Make anew what is damaged of the stages before this one, which opens what they wrote."""
    done, ledger = context.run.record["stages"], Ledger(context.run.path)
    for earlier in STAGES[: STAGES.index(stage)]:
        if earlier.name in done and damage(ledger, earlier.name):
            run_stage(earlier, context, done[earlier.name]["fingerprint"])


def run_stages(
    context: AuditContext,
    watcher: Watcher,
    run: Callable[[Stage, AuditContext, str], bool] = run_stage,
) -> None:
    """Run all stages in an open run directory.

    watcher: told when a stage begins and ends. run: runs one stage with its fingerprint, as `run_stage` does, and
    says whether it had to; an orchestrator wraps `run_stage` in what it adds.

    Raises what the stages raise.
    """
    watcher.opened(context.run)
    expected = fingerprints(context.config)
    for stage in STAGES:
        watcher.begins(stage.name)
        ran = run(stage, context, expected[stage.name])
        entry = context.run.record["stages"][stage.name]
        watcher.ends(stage.name, entry["facts"], entry["seconds"], before=not ran)
