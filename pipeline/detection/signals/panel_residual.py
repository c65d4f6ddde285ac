"""How far a numeric label is from what the judges predict."""

from __future__ import annotations

from pipeline.detection.signals.registry import Signal, register

PANEL_RESIDUAL = register(
    Signal(
        name="panel_residual",
        label="far from predictions",
        words="how far the target is from what models that never saw the row predict",
        high_is_suspicious=True,
        counts=True,
        of_judges=lambda judged: judged.deviation,
    )
)
