"""Further trainings of an audit with other seeds; their signals or scores are averaged with those of the audit.

A repeat has its own run directory, `repeats/<number>/`. It links to the audit's encoded data and runs the stages from
`train` to `attribute`. Stages that are complete do not run again.
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
    """Train and score with another seed, unless that is done already.

    Args:
        context: of the audit.
        number: counts the trainings; the audit's own is 1, so that repeats begin with 2.

    Returns:
        The context of the repeat.
    """
    changes = {"training.seed": context.config.training.seed + number - 1, "attribution.ensemble": 1}
    if number > context.config.detection.repeats:  # only its scores of the whole run are used
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
