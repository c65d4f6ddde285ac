"""The section `orchestration`."""

from __future__ import annotations

from pydantic import Field

from pipeline.config.sections.fields import Section


class Orchestration(Section):
    """What Prefect does with a stage that fails or hangs.

    Without Prefect (docs/how-to/install.md#extras) a stage is tried once and has no time limit.
    """

    retries: int = Field(1, ge=0, description="of a stage that fails for other reasons than its input")
    timeout_hours: float = Field(24, gt=0, description="of one stage")
