"""Names under which workers and client talk to each other."""

from __future__ import annotations

PROGRESS_TOPIC = "winnow-progress"
