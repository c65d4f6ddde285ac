"""Which source an audit by defaults names, by the stages that decide it: prepare, the panel, the test of sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.panel_run import run_panel
from pipeline.config import load_config
from pipeline.detection.sources.source_findings import sources_of_run
from pipeline.panel.opinions import read_panel
from pipeline.report.summary import worst_source
from pipeline.text.decisions import Decision
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data


def source_that_is_named(config_path: Path, run_path: Path) -> str | None:
    """The value of the source that stands in the summary as the worst, or None; nothing is trained.

    No opinion of the audited model has a say in it, so a whole audit names the same one.
    """
    run_panel(load_config(config_path), run_path)
    given = role_labels(run_data(run_path), "train").numpy()
    kept = np.full(len(given), Decision.KEEP, dtype=np.uint8)
    named = worst_source(sources_of_run(run_path, read_panel(run_path), given, kept, None))
    return None if named is None else str(named["value"])
