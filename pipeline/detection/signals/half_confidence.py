"""What the training on the other half of the rows thinks of a row's label."""

from __future__ import annotations

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import OnSets, Signal, Values, register


def half_confidence(evidence: Evidence) -> Values | None:
    """Probability of the given label (numeric labels: minus the squared error); None without halves."""
    if not evidence.context.config.detection.halves or evidence.opinion is None:
        return None
    return evidence.opinion.own


HALF_CONFIDENCE = register(
    Signal(
        name="half_confidence",
        label="hard to predict",
        words="what a model that never saw the row thinks of its label",
        high_is_suspicious=False,
        counts=True,
        of_training=half_confidence,
        on_sets=OnSets(
            "what a model that never saw the row thinks of the answer (yes or no) to the row's most suspicious label",
            lambda pairs: pairs.own if pairs.halves else None,
        ),
    )
)
