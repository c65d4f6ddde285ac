"""The manifest of a stage: what it wrote, with checksums; written last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.marks import Mark
from pipeline.attribution.atomic import write_atomically

STAGES = "stages"


@dataclass(frozen=True)
class Manifest:
    """`stages/<stage>.json`.

    places: what the stage writes, and, in `changes`, files of earlier stages that it rewrites; files: None until the
    stage is done; steps: the files of its steps; before: the fingerprint of the stage before it.
    """

    fingerprint: str | None
    places: tuple[str, ...] | None
    changes: tuple[str, ...]
    files: dict[str, Mark] | None
    steps: dict[str, list[str]]
    before: str | None = None

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """An empty one where there is none or it is damaged: then nothing of the stage is trusted."""
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            files = tree.get("files")
            return cls(
                tree["fingerprint"],
                None if "outputs" not in tree else tuple(tree["outputs"]),
                tuple(tree.get("changes", ())),
                None if files is None else {name: Mark(*mark) for name, mark in files.items()},
                dict(tree.get("steps", {})),
                tree.get("before"),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(None, None, (), None, {})

    def write(self, path: Path) -> None:
        tree: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "before": self.before,
            "outputs": self.places,
            "changes": self.changes,
        }
        if self.files is not None:
            tree |= {"files": self.files, "steps": self.steps}
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
