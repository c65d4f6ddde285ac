"""Finds the manifest of an export."""

from __future__ import annotations

from pathlib import Path

from pipeline.runs.directory import RunDirectory

MANIFEST = "cleaned.json"
AS_GIVEN = "cleaned_as_given"
"""The folder of the cleaned data in the formats of the sources; there if a source is not Parquet."""
EARLIER_MANIFEST = "cleaned/_manifest.json"
"""Earlier versions wrote the manifest here."""


def manifest_path(run: RunDirectory) -> Path | None:
    """The manifest of the export, also in runs of earlier versions; None without an export."""
    return next((run / name for name in (MANIFEST, EARLIER_MANIFEST) if (run / name).exists()), None)
