"""The counting signals of further trainings with other seeds: averaged with the audit's own, they rank better.

A repeat is a run directory of its own, `repeats/<number>/`, with the audit's encoded data and its stages up to the
scores; what is complete there is not done again.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pipeline.context import AuditContext
from pipeline.detection.combination import Signal
from pipeline.detection.signals import counting_signals
from pipeline.run import RunDirectory, write_text
from pipeline.stages import STAGES, fingerprints, run_stage

SHARED = ("catalog.parquet", "encoding.json", "encoded")
REPEATED = ("train", "factors", "attribute")


def repeated_signals(context: AuditContext) -> list[Signal]:
    """The counting signals of `detection.repeats − 1` more trainings, named `<signal>_<number>`, from number 2 on."""
    return [
        replace(signal, name=f"{signal.name}_{number}")
        for number in range(2, context.config.detection.repeats + 1)
        for signal in counting_signals(repeat(context, number))
    ]


def repeat(context: AuditContext, number: int) -> AuditContext:
    """Train and score with another seed, where that is not done yet."""
    config = context.config.with_changes({"training.seed": context.config.training.seed + number - 1})
    run = RunDirectory(context.run.path / "repeats" / str(number))
    write_text(run / "config.yaml", config.to_yaml())
    for name in SHARED:
        link(run / name, context.run / name)
    expected = fingerprints(config)
    run.finish_stage("prepare", expected["prepare"], context.run.record["stages"]["prepare"])
    of_repeat = replace(context, config=config, run=run)
    for stage in STAGES:
        if stage.name in REPEATED:
            run_stage(stage, of_repeat, expected[stage.name])
    return of_repeat


def link(path: Path, target: Path) -> None:
    """A relative link, so that the run directory can be moved."""
    if not path.is_symlink():
        path.symlink_to(os.path.relpath(target, path.parent))
