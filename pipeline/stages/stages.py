"""The list of stages, their fingerprints, and functions that run them."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.artifacts import Ledger, damage
from pipeline.config import AuditConfig, digest
from pipeline.history.verdicts import SNAPSHOT
from pipeline.runs.context import AuditContext
from pipeline.runs.settled import settled
from pipeline.runs.watcher import Watcher
from pipeline.workers.cluster import peak_resident_bytes


@dataclass(frozen=True)
class Stage:
    """A step of the audit.

    Attributes:
        name: in the record and on the command line.
        function: `module:name` of a function `(context) -> facts`, which is imported when the stage runs.
        sections: the sections of the config that the stage depends on.
        outputs: names that the stage writes in the run directory; they are removed before the stage runs anew.
        changes: files of earlier stages that the stage rewrites.
        keeps: outputs whose files depend only on the earlier stages and on their own names, so that they are kept when
            the settings of the stage itself change.
    """

    name: str
    function: str
    sections: tuple[str, ...]
    outputs: tuple[str, ...]
    changes: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()

    def run(self, context: AuditContext, **options: Any) -> dict[str, Any]:
        module, _, name = self.function.partition(":")
        context = replace(context, config=settled(context.config, context.run.path))
        return getattr(importlib.import_module(module), name)(context, **options)


STAGES = (
    Stage(
        "prepare",
        "pipeline.embedding.stage:prepare",
        ("data",),
        ("catalog.parquet", "encoding.json", "encoded"),
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
        ("exported", "cleaned", "cleaned_as_given", "cleaned.json", "quarantine"),
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
"""Keys of other sections that a stage depends on."""


def fingerprints(config: AuditConfig, run_path: Path | None = None) -> dict[str, str]:
    """The fingerprint of every stage: a hash of its part of the config, the stage before it and the code's version.

    The fingerprint of the source files takes the place of the stage before the first one.

    Args:
        config: of the audit.
        run_path: the run directory, whose verdicts of earlier audits count for `detect`; None if there are none.

    Raises:
        InputError: a file that the config names does not exist.
    """
    from pipeline.data.evidence.collect import evidence_fingerprint
    from pipeline.data.named_rows import content_hash
    from pipeline.data.picture_states import picture_states
    from pipeline.data.prepare import source_fingerprint
    from pipeline.detection.signals.registry import added_signals
    from pipeline.embedding.stage import encoder_identities
    from pipeline.training.recorded import recorded_hash

    tree = config.as_dict()
    previous, found = source_fingerprint(config), {}
    for stage in STAGES:
        part: dict[str, Any] = {section: tree[section] for section in stage.sections}
        for key in EXTRA_KEYS.get(stage.name, ()):
            section, _, name = key.partition(".")
            part[key] = tree[section][name] if name else tree[section]
        if stage.name == "prepare" and (encoders := encoder_identities(config)):
            part |= {"encoders": encoders}
        if stage.name == "prepare" and (pictures := picture_states(config.data)) is not None:
            part |= {"pictures": pictures}
        if stage.name == "train" and config.training.trajectory is not None:
            part["training"] |= {"trajectory": recorded_hash(config.training.trajectory)}
        if stage.name == "panel" and (joined := evidence_fingerprint(config)) is not None:
            part["evidence"] = joined
        if stage.name == "detect":  # hashes of the contents, because a run and its answers may be moved
            part["detection"] |= {key: content_hash(path) for key, path in _named_files(config).items()}
            part |= {"signals": added_signals()} if added_signals() else {}
            if run_path is not None and (run_path / SNAPSHOT).exists():
                part["verdicts"] = content_hash(str(run_path / SNAPSHOT))
        if stage.name == "verify" and config.verification.answers is not None:
            part["verification"] |= {"answers": content_hash(config.verification.answers)}
        previous = found[stage.name] = digest([part, previous, __version__])
    return found


def _named_files(config: AuditConfig) -> dict[str, str]:
    """Key of the config → file that people gave to detection; when a file changes, detection runs anew."""
    detection = config.detection
    named = {"trusted": detection.trusted, "answers": detection.answers, "decisions": detection.decisions}
    return {key: path for key, path in named.items() if path is not None}


def run_stage(stage: Stage, context: AuditContext, fingerprint: str, **options: Any) -> bool:
    """Run one stage, unless its output with this fingerprint is complete.

    Args:
        stage: the stage.
        context: what it works with.
        fingerprint: of the stage, from `fingerprints`.
        options: further arguments of the stage's function.

    Returns:
        Whether the stage ran.
    """
    run = context.run
    if run.is_complete(stage.name, fingerprint):
        return False
    _mend_earlier(stage, context)
    before = STAGES[STAGES.index(stage) - 1].name if stage.keeps else None
    run.begin_stage(stage.name, fingerprint, stage.outputs, stage.changes, before, stage.keeps)
    begin = time.perf_counter()
    facts = stage.run(context, **options)
    peak = max(peak_resident_bytes(), context.workers.peak_memory())
    entry = {"seconds": round(time.perf_counter() - begin, 3), "peak_memory_bytes": peak, "facts": facts}
    run.finish_stage(stage.name, fingerprint, entry)
    return True


def _mend_earlier(stage: Stage, context: AuditContext) -> None:
    """Run earlier stages again whose files are damaged, since this stage reads them."""
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

    Args:
        context: what the stages work with.
        watcher: told when a stage begins and ends.
        run: runs one stage with its fingerprint and returns whether it ran, as `run_stage` does. An orchestrator gives
            a function that wraps `run_stage`.

    Raises:
        WinnowError: a stage failed.
        InputError: the config, the data or a file of the run is wrong.
    """
    from pipeline.stages.remembering import remember

    watcher.opened(context.run)
    expected = fingerprints(context.config, context.run.path)
    for stage in STAGES:
        watcher.begins(stage.name)
        ran = run(stage, context, expected[stage.name])
        entry = context.run.record["stages"][stage.name]
        watcher.ends(stage.name, entry["facts"], entry["seconds"], before=not ran)
    remember(context.config, context.run)
