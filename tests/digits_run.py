"""Real runs on the shipped digits, at small settings."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import AuditConfig, load_config
from pipeline.runs.context import AuditContext
from pipeline.stages.opening import open_run
from pipeline.stages.stages import STAGES, fingerprints, run_stage

ROOT = Path(__file__).parents[1]
SMALL = {
    "training.epochs": 6,
    "training.checkpoints": 3,
    "model.hidden": [32],
    "compute.workers": 1,
    "verification.seeds": 2,
    "verification.fidelity": 0,
}


def digits_config(**changes: object) -> AuditConfig:
    """The example config with small settings; `section__key=value` changes more."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(ROOT / "configs" / "digits.yaml", SMALL | dotted)


def run_until(config: AuditConfig, path: Path, last: str) -> None:
    """All stages up to `last` in the run directory `path`, on real workers."""
    with open_run(config, path) as context:
        run_stages(context, last)


def run_stages(context: AuditContext, last: str) -> None:
    expected = fingerprints(context.config)
    for stage in STAGES:
        run_stage(stage, context, expected[stage.name])
        if stage.name == last:
            return
