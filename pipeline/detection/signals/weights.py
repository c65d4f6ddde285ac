"""The weights of the signals in the suspicion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.signals.panel_confidence import PANEL_CONFIDENCE
from pipeline.detection.signals.registry import signal_of
from pipeline.detection.suspicion import SignalValues

SHARE_OF_TRAINING = 0.1
"""The total weight of the training's signals besides a panel of weight 1, if the model is as good as the panel."""


OWN_WEIGHT = 2.0
"""The weight of `panel_confidence` beside a panel of weight 1, if only models of the user's own have votes."""


def weighted_by_own(of_judges: Sequence[SignalValues], share: float) -> list[SignalValues]:
    """The signals of the judges; `panel_confidence` counts by the share of the user's own models of the votes."""
    name = PANEL_CONFIDENCE.name
    return [replace(each, weight=OWN_WEIGHT * share) if each.name == name else each for each in of_judges]


def weighted(signals: Sequence[SignalValues], noise: NoiseEstimate | None) -> list[SignalValues]:
    """The signals with their weights at this share of wrong labels; signals of repeats get the same weights."""
    found = [(each, signal_of(each.name)) for each in signals]
    return [each if signal is None else replace(each, weight=signal.weight(noise)) for each, signal in found]


def shared_out(of_training: Sequence[SignalValues], vote: float) -> list[SignalValues]:
    """Scale the weights of the training's signals so that their sum is their share besides a panel of weight 1.

    Args:
        of_training: the signals of the training.
        vote: of the audited model as a judge, 0 … 1 (`detection.judges`); at 0 its signals no longer count.
    """
    counted = sum(signal.weight for signal in of_training if signal.counts)
    factor = SHARE_OF_TRAINING * vote / counted if counted else 0.0
    return [
        replace(signal, weight=signal.weight * factor, counts=factor > 0) if signal.counts else signal
        for signal in of_training
    ]
