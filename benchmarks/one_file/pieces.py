"""Results on disk, one file per configuration and part, so that the benchmark runs in pieces.

A file has a header line (what it is about, by which commit it was made, when, in how many seconds) and then a row
a line. It counts while configuration and version are those of this code; the commit is only recorded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.one_file.configurations import Configuration
from benchmarks.one_file.measures import Row
from benchmarks.results import commit
from pipeline.runs.directory import write_text

PEERS, AUDIT, CORE, GAINS, NAMING = "peers", "audit", "core", "gains", "naming"
VERSIONS = {PEERS: 1, AUDIT: 1, CORE: 1, GAINS: 1, NAMING: 1}
"""Raised when what a part measures changes, which makes its files count no more."""
OF_WINNOW = (AUDIT, CORE, NAMING)
"""Parts whose results depend on the code of the project, and so are stale under another commit."""


@dataclass(frozen=True)
class Piece:
    header: dict[str, Any]
    rows: list[Row]

    @property
    def commit(self) -> str | None:
        return self.header["commit"]


class Pieces:
    """The files under `folder`/PART/."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.commit = commit()

    def path(self, part: str, configuration: Configuration, ending: str = "jsonl") -> Path:
        return self.folder / part / f"{configuration.file_name}.{ending}"

    def write(
        self, part: str, configuration: Configuration, rows: Sequence[Row], seconds: float, **more: Any
    ) -> None:
        header = {
            "configuration": configuration.hash,
            "version": VERSIONS[part],
            "commit": self.commit,
            "date": date.today().isoformat(),
            "seconds": round(seconds, 1),
        } | more
        write_text(
            self.path(part, configuration), "".join(json.dumps(each) + "\n" for each in (header, *rows))
        )

    def read(self, part: str, configuration: Configuration) -> Piece | None:
        """None where it is not there, or counts no more."""
        path = self.path(part, configuration)
        if not path.exists():
            return None
        header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        if (header["configuration"], header["version"]) != (configuration.hash, VERSIONS[part]):
            return None
        return Piece(header, rows)

    def is_stale(self, part: str, configuration: Configuration) -> bool:
        """Whether a piece that depends on the project's code was made by another commit than the present one."""
        piece = self.read(part, configuration)
        return part in OF_WINNOW and piece is not None and piece.commit != self.commit
