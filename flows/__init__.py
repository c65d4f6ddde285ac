"""Prefect flows around the pipeline, and the command `winnow`.

Prefect is an extra, and importing this package does not import it. Prefect reads its settings when it is imported,
so this package settles them first: nothing is sent to anyone, and Prefect's files lie in a folder of winnow's own
unless the user has a Prefect home.
"""

from __future__ import annotations

import os
from pathlib import Path

HOME = Path.home() / ".winnow"


def settle_prefect() -> None:
    """Set what the user has not set, for this process and those that it starts."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    has_profiles = "PREFECT_PROFILES_PATH" in os.environ or (Path.home() / ".prefect/profiles.toml").exists()
    if not has_profiles:
        os.environ.setdefault("PREFECT_HOME", str(HOME))


settle_prefect()
