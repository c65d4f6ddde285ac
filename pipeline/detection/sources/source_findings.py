"""Finds the sources of wrong labels in a run, among its declared sources and other columns, by the judges."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.sources.source_values import declared_sources, other_columns
from pipeline.detection.sources.suspect_sources import (
    Opinions,
    class_opinions,
    find_sources,
    set_opinions,
    target_opinions,
)
from pipeline.panel.opinions import Panel
from pipeline.text.decisions import Decision
from pipeline.workers.worker import run_data

FEWEST_OF_OTHERS = 200
"""The least rows for a value of an undeclared column: among many columns, some small group is hard by chance."""


def sources_of_run(
    run_path: Path,
    panel: Panel | None,
    given: np.ndarray,
    decision: np.ndarray,
    estimate: NoiseEstimate | None,
) -> list[dict[str, Any]]:
    """The lines of `find_sources` for the train rows; empty without a panel.

    Args:
        run_path: the run directory.
        panel: the panel, or None.
        given: encoded labels, `[train rows]`.
        decision: Decisions, uint8 `[train rows]`.
        estimate: of the share of wrong labels, or None.
    """
    if panel is None:
        return []
    overall, flagged = None if estimate is None else asdict(estimate), decision != Decision.KEEP
    opinions = _opinions_of(run_path, panel, given)
    declared = find_sources(declared_sources(run_path), opinions, flagged, overall)
    others = find_sources(other_columns(run_path), opinions, flagged, overall)
    return declared + [line for line in others if line["rows"] >= FEWEST_OF_OTHERS]


def _opinions_of(run_path: Path, panel: Panel, given: np.ndarray) -> Opinions:
    task, opinions, judged = run_data(run_path).encoding.task, panel.mean("train"), panel.judged("train")
    if task == "regression":
        return target_opinions(np.asarray(opinions, dtype=np.float64), given, judged)
    compare = class_opinions if task == "classification" else set_opinions
    return compare(np.asarray(opinions), given, judged)
