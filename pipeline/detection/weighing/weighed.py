"""What is thought of the train rows: the conclusions about their labels, and the evidence behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.detection.columns import StoredColumn
from pipeline.detection.judges.calibration import Calibration
from pipeline.detection.judges.class_judges import Judges
from pipeline.detection.judges.halves import Opinion
from pipeline.detection.judges.target_judges import TargetJudges
from pipeline.detection.noise.flag_counts import Counts
from pipeline.detection.noise.judge_noise import Noise
from pipeline.detection.noise.label_flips import Flips
from pipeline.detection.rules.protection import LEAST_EXPLAINED as LEAST_KNOWN
from pipeline.detection.signals.early_harm import EARLY_HARM
from pipeline.detection.signals.registry import Signal
from pipeline.detection.sources.source_rates import SourceRates
from pipeline.detection.suspicion import SignalValues
from pipeline.panel.opinions import Panel


@dataclass(frozen=True)
class Labels:
    """The conclusions about the given labels; arrays are `[rows]`.

    Attributes:
        given, suggested: encoded labels; for sets `[rows, labels]`.
        contradicted: bool, whether the suggested label fits better.
        probability: float64, that the suggested label is right; NaN if unknown.
        strata: int, within which caps hold.
        counts: how many rows are flagged.
        calibration: of the suggestions' probabilities; None if nothing was fitted.
        wrong: float64, the probability that the given label is wrong; None if unknown.
    """

    given: np.ndarray
    suggested: np.ndarray
    contradicted: np.ndarray
    probability: np.ndarray
    strata: np.ndarray
    counts: Counts
    calibration: Calibration | None = None
    wrong: np.ndarray | None = None


@dataclass(frozen=True)
class Weighed:
    """The evidence about the train rows, and the conclusions from it.

    Attributes:
        signals: of the audit's own training and of the judges.
        repeated: signals of further trainings.
        ranking: float64 `[rows]`, the suspicion.
        nearest: float32 `[rows]`, the distance to the nearest class.
        opinion: of the halves or the main run.
        noise: the estimated label noise.
        labels: the conclusions about the labels.
        judges: of classes; None without a panel and for other tasks.
        flips: the label flips; None without judges.
        rates: which sources flip labels more often; None if none do.
        targets: the judges of numeric targets; None for other tasks.
        panel: the panel, or None.
        explains: the share of the log loss that the best judge explains; None without judges.
        doubt: float64 `[rows]`, what the judges alone say against the label, on a scale that other roles share.
        told: whether wrong labels can be told from hard rows; if not, suggestions have no probability.
    """

    signals: list[SignalValues]
    repeated: list[SignalValues]
    ranking: np.ndarray
    nearest: np.ndarray
    opinion: Opinion
    noise: Noise
    labels: Labels
    judges: Judges | None = None
    flips: Flips | None = None
    rates: SourceRates | None = None
    targets: TargetJudges | None = None
    panel: Panel | None = None
    explains: float | None = None
    doubt: np.ndarray | None = None
    told: bool = True

    @property
    def may_remove(self) -> bool:
        """Whether the judges explain enough that rows may be removed without a person's decision."""
        return self.explains is None or self.explains >= LEAST_KNOWN

    @property
    def harm(self) -> np.ndarray | StoredColumn | None:
        return values_of(self.signals, EARLY_HARM)


def values_of(signals: Sequence[SignalValues], signal: Signal) -> np.ndarray | StoredColumn | None:
    """The values of a signal; None if the audit does not have it."""
    return next((each.values for each in signals if each.name == signal.name), None)
