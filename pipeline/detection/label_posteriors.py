"""What verification needs of validation and holdout rows: how probable each label is, and which are contradicted.

Made by the panel alone: what measures the retrained models may not be of their kind. Also without the columns that say
where a row comes from (`data.group`), where features are among these: labels that are wrong by their source would else
look right to those who know the source.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.detection.noise.flag_counts import DOUBTFUL_TARGET
from pipeline.detection.noise.label_flips import Flips, estimate_flips, right_label
from pipeline.detection.weigh import Weighed
from pipeline.panel.fits import save_array
from pipeline.panel.opinions import Panel
from pipeline.runs.context import AuditContext
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data

ROLES = ("validation", "holdout")
MOST_NUMBERS = 2**21
"""Probabilities that flips are estimated from."""


def posterior_path(run_path: Path, role: str, blind: bool = False) -> Path:
    """float32 `[rows, classes]`: P(class is right | features, given label)."""
    return run_path / "detection" / f"posterior-{role}{'-blind' if blind else ''}.npy"


def contradicted_path(run_path: Path, role: str, blind: bool = False) -> Path:
    """bool `[rows]`: a model of the panel that counts contradicts the label."""
    return run_path / "detection" / f"contradicted-{role}{'-blind' if blind else ''}.npy"


def write_measures(context: AuditContext, weighed: Weighed) -> None:
    """For every role that there is, whether its labels are declared right or not."""
    path, panel, data = context.run.path, weighed.panel, run_data(context.run.path)
    if panel is None:
        return
    task = data.encoding.task
    flips = flips_of_panel(panel, weighed.labels.given) if task == "classification" else None
    for role in ROLES:
        if not data.count(role):
            continue
        labels = role_labels(data, role).numpy()
        for blind in (False, True) if panel.has_blind(role) else (False,):
            if flips is not None:
                posterior = right_label(np.asarray(panel.mean(role, blind)), labels, flips)
                save_array(posterior_path(path, role, blind), posterior)
            if weighed.targets is not None:
                contradicted = weighed.targets.deviation(role, labels) > DOUBTFUL_TARGET
            else:
                contradicted = contradicted_by_any(panel, role, labels, blind)
            save_array(contradicted_path(path, role, blind), contradicted)


def flips_of_panel(panel: Panel, given: np.ndarray) -> Flips:
    opinions = panel.mean("train")
    step = max(1, -(-opinions.size // MOST_NUMBERS))
    return estimate_flips(np.asarray(opinions[::step]), given[::step])


def contradicted_by_any(panel: Panel, role: str, labels: np.ndarray, blind: bool) -> np.ndarray:
    """Classes: another is more probable to a model that counts; sets: an answer is improbable."""
    found = np.zeros(len(labels), dtype=bool)
    for judge in panel.judges:
        if judge.counts:
            opinion = np.asarray(panel.of(judge.name, role, blind))
            sets = labels.ndim == 2
            found |= ((opinion > 0.5) != (labels > 0)).any(1) if sets else opinion.argmax(1) != labels
    return found
