"""The folder for what audits share: copies of sources in Parquet, and what encoders have made."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """`WINNOW_CACHE`, else `winnow` in `XDG_CACHE_HOME`, else `~/.cache/winnow`."""
    own = os.environ.get("WINNOW_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "winnow"
