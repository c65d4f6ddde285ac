"""Signal: how often training forgets a row that it had learned."""

from __future__ import annotations

import numpy as np

from pipeline.detection.columns import slices
from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register
from pipeline.training.dynamics import SLICE, epoch_path
from pipeline.training.main_run import main_directory
from pipeline.training.tensor_file import RowsFile


def forgetting(evidence: Evidence) -> np.ndarray | None:
    """The number of forgetting events of each row (Toneva et al. 2019, arXiv 1812.05159), float64 `[rows]`.

    An event is an epoch after which the label has no positive margin although it had one an epoch before. A row that is
    never right has no event; the paper ranks it above all others, and here it gets the number of epochs.

    Returns:
        None except for classification.
    """
    if evidence.task != "classification":
        return None
    epochs = evidence.context.config.training.known_epochs
    files = [RowsFile(epoch_path(main_directory(evidence.path), epoch)) for epoch in range(1, epochs + 1)]
    parts = [count_events(files, place) for place in slices(len(files[0]), SLICE)]
    return np.concatenate(parts)


def count_events(files: list[RowsFile], place: slice) -> np.ndarray:
    rows = place.stop - place.start
    events, before, ever = np.zeros(rows), np.zeros(rows, dtype=bool), np.zeros(rows, dtype=bool)
    for file in files:
        right = file.read("margin", place.start, place.stop).numpy() > 0
        events += before & ~right
        before, ever = right, ever | right
    return np.where(ever, events, float(len(files)))


FORGETTING = register(
    Signal(
        name="forgetting",
        label="forgotten",
        words="how often training lost the label again after it had got it right",
        high_is_suspicious=True,
        of_training=forgetting,
    )
)
