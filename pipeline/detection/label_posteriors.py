"""The posteriors and contradicted labels of validation and holdout rows, which verification measures arms by.

They come from the panel alone, because models of the audited kind must not measure retrained models of that kind. If
features are in `data.group` (columns that say where a row comes from), there is a second, blind version without these
columns: to judges that know the source, labels that are wrong by their source would look right.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.detection.noise.flag_counts import DOUBTFUL_TARGET
from pipeline.detection.noise.label_flips import Flips, estimate_flips, right_label
from pipeline.detection.weighing.weighed import Weighed
from pipeline.panel.fits import save_array
from pipeline.panel.opinions import Panel
from pipeline.runs.context import AuditContext
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data

ROLES = ("validation", "holdout")
MOST_NUMBERS = 2**21
"""Upper limit of the probabilities from which flips are estimated."""


def _posterior_path(run_path: Path, role: str, blind: bool = False) -> Path:
    """The file with P(class is right | features, given label), float32 `[rows, classes]`."""
    return run_path / "detection" / f"posterior-{role}{'-blind' if blind else ''}.npy"


def _contradicted_path(run_path: Path, role: str, blind: bool = False) -> Path:
    """The file with the labels that a counting model of the panel contradicts, bool `[rows]`."""
    return run_path / "detection" / f"contradicted-{role}{'-blind' if blind else ''}.npy"


def write_measures(context: AuditContext, weighed: Weighed) -> None:
    """Write posteriors and contradicted labels of every role besides train, also if its labels are declared right."""
    path, panel, data = context.run.path, weighed.panel, run_data(context.run.path)
    if panel is None:
        return
    task = data.encoding.task
    flips = _flips_of_panel(panel, weighed.labels.given) if task == "classification" else None
    for role in ROLES:
        if not data.count(role):
            continue
        labels = role_labels(data, role).numpy()
        for blind in (False, True) if panel.has_blind(role) else (False,):
            if flips is not None:
                posterior = right_label(np.asarray(panel.mean(role, blind)), labels, flips)
                save_array(_posterior_path(path, role, blind), posterior)
            if weighed.targets is not None:
                contradicted = weighed.targets.deviation(role, labels) > DOUBTFUL_TARGET
            else:
                contradicted = _contradicted_by_any(panel, role, labels, blind)
            save_array(_contradicted_path(path, role, blind), contradicted)


def _flips_of_panel(panel: Panel, given: np.ndarray) -> Flips:
    opinions = panel.mean("train")
    step = max(1, -(-opinions.size // MOST_NUMBERS))
    return estimate_flips(np.asarray(opinions[::step]), given[::step])


def _contradicted_by_any(panel: Panel, role: str, labels: np.ndarray, blind: bool) -> np.ndarray:
    """Labels that a counting model contradicts (another class, or for sets an answer, is likelier), bool `[rows]`."""
    found = np.zeros(len(labels), dtype=bool)
    for judge in panel.judges:
        if judge.counts:
            opinion = np.asarray(panel.of(judge.name, role, blind))
            sets = labels.ndim == 2
            found |= ((opinion > 0.5) != (labels > 0)).any(1) if sets else opinion.argmax(1) != labels
    return found
