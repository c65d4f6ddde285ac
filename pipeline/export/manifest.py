"""Where the manifest of an export lies."""

from __future__ import annotations

from pathlib import Path

from pipeline.runs.directory import RunDirectory

MANIFEST = "cleaned.json"
EARLIER_MANIFEST = "cleaned/_manifest.json"
"""Where earlier versions wrote it."""


def manifest_path(run: RunDirectory) -> Path | None:
    """The manifest of the export, beside cleaned/ or, in runs of earlier versions, within; None without an export."""
    return next((run / name for name in (MANIFEST, EARLIER_MANIFEST) if (run / name).exists()), None)
