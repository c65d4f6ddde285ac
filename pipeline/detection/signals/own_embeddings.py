"""Signals of the two judges that see the user's embeddings (`data.embeddings`) alone: own_linear, own_neighbours."""

from __future__ import annotations

from functools import partial

from pipeline.detection.signals.panel_models import opinion_of_model
from pipeline.detection.signals.registry import OnTargets, Signal, register
from pipeline.panel.judges import OWN_LINEAR, OWN_NEIGHBOURS

for _judge in (OWN_LINEAR, OWN_NEIGHBOURS):
    register(
        Signal(
            name=_judge.name,
            label=_judge.label,
            words=f"how much it prefers the label: {_judge.words}",
            high_is_suspicious=False,
            of_judges=partial(opinion_of_model, _judge.name),
            on_targets=OnTargets(f"how far its prediction is off: {_judge.words}", high_is_suspicious=True),
        )
    )
