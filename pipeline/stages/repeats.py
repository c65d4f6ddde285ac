"""Further trainings of an audit with other seeds, whose signals or scores are averaged with its own.

A repeat is a run directory of its own, `repeats/<number>/`, with the audit's encoded data and its stages up to the
scores; what is complete there is not done again.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.artifacts import begin_journal
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, link, write_text
from pipeline.stages.stages import STAGES, fingerprints, run_stage

SHARED = ("catalog.parquet", "encoding.json", "encoded")
REPEATED = ("train", "factors", "attribute")


def repeat(context: AuditContext, number: int) -> AuditContext:
    """Train and score with another seed, where that is not done yet; number: from 2 on."""
    changes = {"training.seed": context.config.training.seed + number - 1, "attribution.ensemble": 1}
    if number > context.config.detection.repeats:  # for scores of the whole run alone
        changes |= {"detection.halves": False, "data.validation_is_clean": False}
    config = context.config.with_changes(changes)
    run = RunDirectory(context.run.path / "repeats" / str(number))
    begin_journal(run.path)
    write_text(run / "config.yaml", config.to_yaml())
    for name in SHARED:
        link(run / name, context.run / name)
    expected = fingerprints(config)
    run.mend_record()
    prepared = {"prepare": context.run.record["stages"]["prepare"] | {"fingerprint": expected["prepare"]}}
    run.update_record(stages=run.record["stages"] | prepared)
    of_repeat = replace(context, config=config, run=run)
    for stage in STAGES:
        if stage.name in REPEATED:
            run_stage(stage, of_repeat, expected[stage.name])
    return of_repeat
