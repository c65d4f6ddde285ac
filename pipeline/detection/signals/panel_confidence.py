"""Signal: how probable all judges together find the label, where a model of the user's own is among them.

Unlike `panel_wrong` it takes no account of which label is given instead of which. Where the user's evidence is far
better than the features, the estimate of that says little beside it, and both rankings together are better than each.
The signal counts by the vote of the user's evidence.
"""

from __future__ import annotations

from pipeline.detection.signals.registry import Signal, register

PANEL_CONFIDENCE = register(
    Signal(
        name="panel_confidence",
        label="label hardly expected",
        words="how probable models that never saw the row, yours among them, find the label",
        high_is_suspicious=False,
        counts=True,
        of_judges=lambda judged: judged.confidence,
    )
)
