"""How large a part of the suspicion each signal is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.signals.registry import signal_of
from pipeline.detection.suspicion import SignalValues

SHARE_OF_TRAINING = 0.1
"""What all signals of the audited training weigh together beside the panel, where the model is as good as the panel."""


def weighted(signals: Sequence[SignalValues], noise: NoiseEstimate | None) -> list[SignalValues]:
    """Every signal with the weight that it has at this share of wrong labels; repeats' as the signal's own."""
    found = [(each, signal_of(each.name)) for each in signals]
    return [each if signal is None else replace(each, weight=signal.weight(noise)) for each, signal in found]


def shared_out(of_training: Sequence[SignalValues], vote: float) -> list[SignalValues]:
    """The signals of the audited training with weights that add up to their share beside a panel of weight 1.

    vote: how much the audited model counts as a judge, 0 … 1 (`detection.judges`); at 0 they no longer count.
    """
    counted = sum(signal.weight for signal in of_training if signal.counts)
    factor = SHARE_OF_TRAINING * vote / counted if counted else 0.0
    return [
        replace(signal, weight=signal.weight * factor, counts=factor > 0) if signal.counts else signal
        for signal in of_training
    ]
