"""The names of Dask topics, under which workers send events to the client."""

from __future__ import annotations

PROGRESS_TOPIC = "winnow-progress"
