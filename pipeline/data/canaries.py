"""Canaries: labels that are flipped on purpose, in the encoded rows alone, to see how many are found again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from pipeline.config import AuditConfig
from pipeline.errors import InputError
from pipeline.runs.directory import write_atomically
from pipeline.seeds import random_state

NAME = "encoded/canaries.safetensors"
MOST = 0.2
"""Of the train rows: with more flips the run would say little about the data as they are."""


@dataclass(frozen=True)
class Canaries:
    """places: int64 `[n]`, ascending, among the train rows; shifts: int64 `[n]`, 1 … classes − 1."""

    places: np.ndarray
    shifts: np.ndarray
    classes: int

    def plant(self, labels: np.ndarray, first: int) -> None:
        """Flip the labels of a run of train rows in place; labels: int64 `[rows]`, the first at `first`."""
        start, end = np.searchsorted(self.places, [first, first + len(labels)])
        at = self.places[start:end] - first
        labels[at] = (labels[at] + self.shifts[start:end]) % self.classes


def draw_canaries(config: AuditConfig, task: str, rows: int, classes: int) -> Canaries | None:
    """Uniform flips of `detection.canaries` of the train rows; None where there are to be none.

    Raises InputError where a row has not one class and for more than MOST of the rows.
    """
    number = config.detection.canaries
    if not number:
        return None
    if task != "classification":
        kind = "a numeric target" if task == "regression" else "a set of labels"
        raise InputError(f"detection.canaries is {number}, and {kind} can't be flipped", "Leave it out.")
    if number > MOST * rows:
        raise InputError(
            f"detection.canaries is {number:,}, more than a fifth of the {rows:,} train rows",
            f"Give at most {int(MOST * rows):,}.",
        )
    random = random_state("canaries", number)
    places = np.sort(random.choice(rows, number, replace=False)).astype(np.int64)
    return Canaries(places, random.randint(1, classes, number).astype(np.int64), classes)


def save_canaries(run_path: Path, canaries: Canaries) -> None:
    with write_atomically(run_path / NAME) as temporary:
        save_file({"places": canaries.places, "shifts": canaries.shifts}, temporary)


def planted_rows(run_path: Path, rows: int) -> np.ndarray:
    """bool `[rows]`: the train rows whose labels were flipped on purpose."""
    planted = np.zeros(rows, dtype=bool)
    if (run_path / NAME).exists():
        planted[load_file(run_path / NAME)["places"]] = True
    return planted
