"""The config of a run with what its trial chose in place of `auto`."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import AuditConfig
from pipeline.runs.directory import read_json

CHOSEN = "training/chosen.json"
"""What the trial wrote in the run directory."""


def settled(config: AuditConfig, run_path: Path) -> AuditConfig:
    """The config with what the trial of the run chose; unchanged as long as there is no whole file of it."""
    left = config.left_to_trial
    if not left:
        return config
    try:
        chosen = read_json(run_path / CHOSEN)["chosen"]
        return config.with_changes({key: chosen[key] for key in left})
    except (OSError, ValueError, KeyError, TypeError):  # the stage `train` makes a damaged file anew
        return config
