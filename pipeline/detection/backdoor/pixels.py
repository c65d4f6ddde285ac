"""Pattern: scattered pixels with fixed values that suspect rows share and that are rare elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.detection.backdoor.subject import Names, Subject
from pipeline.text import words

BIN = 16
SHARED = 0.35
RARER = 8.0
SHARED_BY_CARRIERS = 0.8
MATCHED = 0.8
"""A carrier has at least this share of the pattern's pixels."""
MOST = 256
ROUNDS = 4
LEAST_CARRIERS = 5


@dataclass(frozen=True)
class Pixels:
    """Fixed values of some pixels.

    Attributes:
        places: int64 `[pixels]`, in the flattened image.
        levels: uint8 `[pixels]`.
        shape: C, H, W of the image.
    """

    places: np.ndarray
    levels: np.ndarray
    shape: np.ndarray
    kind: ClassVar[str] = "pixels"
    input: ClassVar[str] = "image"

    def paste(self, rows: np.ndarray) -> np.ndarray:
        pasted = rows.copy()
        pasted.reshape(len(rows), -1)[:, self.places] = self.levels
        return pasted

    def matches(self, rows: np.ndarray) -> np.ndarray:
        there = rows.reshape(len(rows), -1)[:, self.places].astype(np.int16)
        return (np.abs(there - self.levels) <= BIN).mean(1) >= MATCHED

    def neutralise(self, rows: np.ndarray, carriers: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Make the pixels equal in all rows."""
        clear = rows.copy()
        clear.reshape(len(rows), -1)[:, self.places] = 0
        return clear

    def describe(self, names: Names) -> str:  # noqa: ARG002
        return f"{words.plural(len(self.places), 'pixel')} of fixed values"

    def values(self, names: Names) -> dict[str, Any]:  # noqa: ARG002
        return {
            "places": self.places.tolist(),
            "levels": self.levels.tolist(),
            "shape": self.shape.tolist(),
        }


def find_pixels(subject: Subject, target: int, lists: list[np.ndarray]) -> list[Pixels]:
    """Find a pattern for each list of suspect rows that share pixels."""
    images = subject.inputs["image"]
    flat, shape = images.reshape(len(images), -1), np.array(images.shape[1:], dtype=np.int64)
    own = subject.labels == target
    other_bins = bin_shares(flat[~own])
    found = []
    for seeds in lists:
        pattern = _shared_pixels(flat[seeds], other_bins, shape, SHARED)
        for _ in range(ROUNDS):
            if pattern is None:
                break
            carriers = pattern.matches(images) & own
            if carriers.sum() < LEAST_CARRIERS:
                pattern = None
                break
            pattern = _shared_pixels(flat[carriers], other_bins, shape, SHARED_BY_CARRIERS)
        if pattern is not None:
            found.append(pattern)
    return found


def bin_shares(flat: np.ndarray) -> np.ndarray:
    """The share of rows whose pixel lies in each bin, float32 `[256 / BIN, pixels]`; `flat`: uint8 `[rows, pixels]`."""
    bins = flat // BIN
    return np.stack([(bins == level).mean(0, dtype=np.float32) for level in range(256 // BIN)])


def _shared_pixels(flat: np.ndarray, other: np.ndarray, shape: np.ndarray, share: float) -> Pixels | None:
    """The pixels whose most frequent bin these rows share, and which is rare in `other` (`bin_shares` of others)."""
    mine = bin_shares(flat)
    lift = mine / (other + 1e-3)
    level = np.where(mine >= share, lift, 0).argmax(0)
    at = np.arange(flat.shape[1])
    good = (mine[level, at] >= share) & (lift[level, at] >= RARER)
    places = np.flatnonzero(good)
    if len(places) == 0:
        return None
    places = np.sort(places[np.argsort(-lift[level[places], places], kind="stable")[:MOST]])
    inside = np.where(flat[:, places] // BIN == level[places], flat[:, places].astype(np.float32), np.nan)
    return Pixels(places, np.nanmedian(inside, axis=0).astype(np.uint8), shape)
