"""Signals: what models that never saw a row think of its label; the panel's models, and all judges together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.detection.suspicion import Signal
from pipeline.panel.opinions import Panel, panel_margin

WRONG, RESIDUAL = "panel_wrong", "panel_residual"
SHARE_OF_TRAINING = 0.1
"""What all signals of the audited training weigh together beside the panel, where the model is as good as the panel."""


def panel_wrong(wrong: np.ndarray) -> Signal:
    """P(given label is wrong), float64 `[rows]`, by all judges that count."""
    return Signal(
        WRONG, wrong, True, "how probable models that never saw the row make it that its label is wrong"
    )


def panel_residual(deviation: np.ndarray) -> Signal:
    """Robust deviations of the target from what the judges predict, float64 `[rows]`."""
    return Signal(
        RESIDUAL, deviation, True, "how far the target is from what models that never saw the row predict"
    )


def judge_signals(panel: Panel, role: str, labels: np.ndarray) -> Iterator[Signal]:
    """Each model's margin: of the label over the best other. They stand beside the ranking; labels: `[rows]`."""
    for judge in panel.judges:
        margin = panel_margin(panel.of(judge.name, role), labels)
        yield Signal(
            judge.signal, margin, False, f"how much it prefers the label: {judge.words}", counts=False
        )


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
