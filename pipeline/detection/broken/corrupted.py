"""Rows whose features are broken, whatever their label: they are put to review even where no ranking finds them."""

from __future__ import annotations

import numpy as np

from pipeline.detection.broken.images import broken_images
from pipeline.detection.broken.values import broken_lists, broken_numbers, broken_texts
from pipeline.runs.context import AuditContext


def corrupted_rows(context: AuditContext) -> np.ndarray:
    """bool `[train rows]`: an empty or cut-off image, an impossible number or a sentinel, a flat or saturated list, a
    text that says nothing."""
    path = context.run.path
    return broken_images(context) | broken_numbers(path) | broken_lists(path) | broken_texts(path)
