"""The section `export`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config.sections.fields import Section


class Export(Section):
    """How the cleaned dataset is written."""

    format: Literal["parquet"] = Field("parquet", description="only `parquet` so far")
