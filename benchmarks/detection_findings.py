"""What methods say about rows, on disk: one file per configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from pipeline.runs.directory import write_atomically

RANKING, FLAGS, WRONG = "ranking", "flags", "wrong"


@dataclass(frozen=True)
class Finding:
    """What one method says about the train rows of one configuration.

    suspicion: float64 `[rows]`, high = suspicious; flags: bool `[rows]` by what they are called.
    """

    method: str
    suspicion: np.ndarray
    flags: dict[str, np.ndarray] = field(default_factory=dict)


def save_findings(path: Path, findings: Sequence[Finding], wrong: np.ndarray) -> None:
    """`wrong`: bool `[rows]`, where a label was planted."""
    arrays = {WRONG: wrong.astype(np.uint8)}
    for finding in findings:
        arrays[f"{RANKING}/{finding.method}"] = np.ascontiguousarray(finding.suspicion, dtype=np.float64)
        for name, flagged in finding.flags.items():
            arrays[f"{FLAGS}/{finding.method}/{name}"] = np.asarray(flagged).astype(np.uint8)
    with write_atomically(path) as temporary:
        save_file(arrays, temporary)


def load_findings(path: Path) -> tuple[dict[str, Finding], np.ndarray]:
    """The findings by method, and `wrong`."""
    arrays = load_file(path)
    findings = {
        name.partition("/")[2]: Finding(name.partition("/")[2], values)
        for name, values in arrays.items()
        if name.startswith(f"{RANKING}/")
    }
    for name, values in arrays.items():
        if name.startswith(f"{FLAGS}/"):
            _, method, which = name.split("/")
            findings[method].flags[which] = values.astype(bool)
    return findings, arrays[WRONG].astype(bool)
