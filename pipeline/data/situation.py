"""Which labels are known to be right: the two situations of an audit, and what follows from each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config import AuditConfig

if TYPE_CHECKING:
    from pipeline.data.encoded import EncodedData

CLEAN, AS_NOISY = "clean", "as noisy as train"


def situation(config: AuditConfig, data: EncodedData) -> dict[str, str | None]:
    """CLEAN or AS_NOISY for the labels of validation and holdout; None for a role without rows."""
    return {
        role: (CLEAN if config.data.labels_are_clean(role) else AS_NOISY) if data.count(role) else None
        for role in ("validation", "holdout")
    }
