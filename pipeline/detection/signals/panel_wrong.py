"""Signal: the probability that a label is wrong, by all judges together."""

from __future__ import annotations

from pipeline.detection.noise.shares import CHANCE_WRONG
from pipeline.detection.signals.registry import OnSets, Signal, register

PANEL_WRONG = register(
    Signal(
        name=CHANCE_WRONG,
        label="label improbable",
        words="how probable models that never saw the row make it that its label is wrong",
        high_is_suspicious=True,
        counts=True,
        of_judges=lambda judged: judged.wrong,
        on_sets=OnSets(
            "how improbable models that never saw the row find the answer (yes or no) to the row's most suspicious "
            "label",
            lambda pairs: None if pairs.panel is None else 1 - pairs.panel,
        ),
    )
)
