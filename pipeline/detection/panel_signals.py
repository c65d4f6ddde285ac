"""Signals: what the panel's models think of a row that they were not fitted on (low margins are suspicious)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.detection.combination import Signal
from pipeline.panel.opinions import Panel, panel_margin

NAME = "panel"
SHARE_OF_TRAINING = 0.25
"""What all signals of the audited training weigh together beside the panel, where the model is as good as the panel.

Average precision on 14 sets with planted errors (docs/measurements): the panel alone .877, with half a vote of the
training .884, with a whole one .880."""


def panel_signals(panel: Panel, role: str, labels: np.ndarray) -> Iterator[Signal]:
    """The panel's margin, which counts, and each model's, which stand beside it; labels: encoded `[rows]`."""
    words = "how much plain models that never saw the row prefer its label to any other"
    yield Signal(NAME, panel_margin(panel.mean(role), labels), False, words)
    for judge in panel.judges:
        margin = panel_margin(panel.of(judge.name, role), labels)
        yield Signal(judge.signal, margin, False, f"the same by one of them: {judge.words}", counts=False)


def shared_out(of_training: Sequence[Signal], vote: float) -> list[Signal]:
    """The signals of the audited training with weights that add up to their share beside a panel of weight 1.

    vote: how much the audited model counts as a judge, 0 … 1 (`detection.judges`); at 0 they no longer count.
    """
    counted = sum(signal.weight for signal in of_training if signal.counts)
    factor = SHARE_OF_TRAINING * vote / counted if counted else 0.0
    return [
        replace(signal, weight=signal.weight * factor, counts=factor > 0) if signal.counts else signal
        for signal in of_training
    ]
