"""Signals of the single models of the panel: what each thinks of a label. They are not part of the suspicion."""

from __future__ import annotations

from functools import partial

import numpy as np

from pipeline.detection.judges.residuals import robust_deviation
from pipeline.detection.signals.evidence import Judged
from pipeline.detection.signals.registry import OnTargets, Signal, register
from pipeline.panel.judges import JUDGES
from pipeline.panel.opinions import panel_margin


def opinion_of_model(model: str, judged: Judged) -> np.ndarray | None:
    """The margin of the label over the best other one, or the robust deviation of a numeric label from its prediction.

    Returns:
        float64 `[rows]`; None if the panel does not have the model.
    """
    if model not in [judge.name for judge in judged.panel.judges]:
        return None
    said = judged.panel.of(model, judged.role)
    if judged.deviation is None:
        return panel_margin(said, judged.labels)
    return robust_deviation(judged.labels, np.asarray(said, dtype=np.float64))


for _judge in JUDGES:
    register(
        Signal(
            name=f"panel_{_judge.name}",
            label=_judge.label,
            words=f"how much it prefers the label: {_judge.words}",
            high_is_suspicious=False,
            of_judges=partial(opinion_of_model, _judge.name),
            on_targets=OnTargets(f"how far its prediction is off: {_judge.words}", high_is_suspicious=True),
        )
    )
