"""The result of an audit: tables, verification and paths, which are read from the run directory on demand."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.export.manifest import AS_GIVEN
from pipeline.runs.directory import RunDirectory
from pipeline.text.decisions import Decision


class AuditResult:
    """A finished run.

    Raises:
        InputError: the directory holds no finished run, or a file of it is damaged.
    """

    def __init__(self, run: RunDirectory | str | Path):
        self.run = run if isinstance(run, RunDirectory) else RunDirectory(Path(run))
        if not (self.run / "rows.parquet").exists() or not (self.run / "report/summary.json").exists():
            raise InputError(f"{self.run.path}: not a finished run", "Run `winnow audit` to its end first.")
        self.run.check("record.json", "rows.parquet", "report/summary.json")

    @cached_property
    def rows(self) -> pa.Table:
        """One line per audited row; docs/reference/run-directory.md lists the columns and the order."""
        return pq.read_table(self.run / "rows.parquet")

    @property
    def flagged(self) -> pa.Table:
        """The rows whose decision is not `keep`, the most suspicious first."""
        flagged = self.rows.filter(pc.field("decision") != Decision.KEEP.word)
        return flagged.sort_by([("suspicion", "descending"), ("row_key", "ascending")])

    @cached_property
    def verification(self) -> dict[str, Any]:
        self.run.check("verification.json")
        return self.run.read("verification.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        return self.run.read("report/summary.json")

    @property
    def verdict(self) -> str:
        """`improved`, `no evidence`, `worse` or `not tested`."""
        return self.verification["verdict"]

    @property
    def refused(self) -> bool:
        """Whether the verification gate refused to write the cleaned dataset."""
        return bool(self.run.facts("export")["refused"])

    @property
    def skipped(self) -> str | None:
        """Why this run exports nothing, in words; None if it exports."""
        return self.run.facts("export").get("skipped")

    @property
    def cleaned(self) -> ds.Dataset:
        """The cleaned dataset.

        Raises:
            InputError: the gate refused the export, or the run has canaries.
        """
        if self.skipped:
            raise InputError(f"{self.run.path}: {self.skipped}", "Run the audit without detection.canaries.")
        if self.refused:
            raise InputError(
                f"{self.run.path}: nothing was exported, the verdict is {self.verdict!r}",
                "Look at the report; with `verification.gate: off` the audit exports regardless of the verdict.",
            )
        return ds.dataset(self.run / "cleaned", format="parquet")

    @property
    def paths(self) -> dict[str, Path]:
        names = {"rows": "rows.parquet", "cleaned": "cleaned", "quarantine": "quarantine"}
        if (self.run / AS_GIVEN).exists():
            names[AS_GIVEN] = AS_GIVEN
        return {key: self.run / name for key, name in names.items()} | {
            "run": self.run.path,
            "report": self.run / "report/index.html",
            "summary": self.run / "report/summary.json",
        }

    def _repr_html_(self) -> str:
        from pipeline.report.notebook import ROWS, result_box

        return result_box(self.summary, self.run.run_id, self.flagged.slice(0, ROWS).to_pylist())
