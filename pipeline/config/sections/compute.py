"""The section `compute`: workers, device and memory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.sections.fields import Bytes, Section


class Compute(Section):
    """Where the work is done. Results do not depend on workers, chunks or attribution batches."""

    scheduler: str | None = Field(
        None, description="tcp://host:port of your own Dask cluster: docs/how-to/cluster.md"
    )
    workers: int | Literal["auto"] = Field(
        "auto", description="processes on this machine; auto: one per core, or per GPU"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one")
    chunk_rows: int = Field(8192, ge=1, description="the most rows of one task")
    memory_per_worker: Bytes = Field(2 * 2**30, description="a worker above it is restarted")

    @model_validator(mode="after")
    def some_workers(self) -> Compute:
        if isinstance(self.workers, int) and self.workers < 1:
            raise ValueError(f"`workers` is {self.workers}; at least 1, or auto")
        return self
