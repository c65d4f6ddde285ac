"""Pattern: a small patch, found by transplanting windows of suspect rows onto other rows and counting flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from pipeline.detection.backdoor.subject import Names, Subject, Victims, batch_rows, select

SEEDS = 24
STAGES = ((4, 96), (16, 12), (64, 3))
"""(Rows onto which windows are pasted, windows kept) of each stage: many windows on few rows, then few on many."""
LEAST_FLIP = 0.25
KEPT_FLIPS = 0.85
TOLERANCES = (8.0, 20.0)
"""A place matches if its root mean square difference from the patch, in grey levels, is at most this."""
PURE = 0.95
LEAST_CARRIERS = 5


@dataclass(frozen=True)
class Window:
    """A patch.

    Attributes:
        patch: uint8 `[C, h, w]`.
        top, left: the corner at which it is pasted.
        anywhere: whether carriers may have it at any place.
        tolerance: of a match, a root mean square difference in grey levels.
    """

    patch: np.ndarray
    top: int
    left: int
    anywhere: bool
    tolerance: float
    kind: ClassVar[str] = "window"
    input: ClassVar[str] = "image"

    @property
    def place(self) -> tuple[slice, slice]:
        height, width = self.patch.shape[1:]
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def paste(self, rows: np.ndarray) -> np.ndarray:
        pasted = rows.copy()
        pasted[:, :, *self.place] = self.patch
        return pasted

    def matches(self, rows: np.ndarray) -> np.ndarray:
        return self.distance(rows) <= self.tolerance

    def distance(self, rows: np.ndarray) -> np.ndarray:
        """The least root mean square difference of each row from the patch, in grey levels, float32 `[rows]`."""
        if not self.anywhere:
            there = rows[:, :, *self.place].astype(np.float32)
            return np.sqrt(np.square(there - self.patch).mean((1, 2, 3)))
        return least_distance(rows, self.patch)

    def neutralise(self, rows: np.ndarray, carriers: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Make the place of the patch equal in all rows."""
        clear = rows.copy()
        clear[:, :, *self.place] = 0
        return clear

    def describe(self, names: Names) -> str:  # noqa: ARG002
        height, width = self.patch.shape[1:]
        where = "at any place" if self.anywhere else f"{self.left} from the left and {self.top} from the top"
        return f"a patch of {width} × {height} pixels, {where}"

    def values(self, names: Names) -> dict[str, Any]:  # noqa: ARG002
        return {"top": self.top, "left": self.left, "anywhere": self.anywhere, "patch": self.patch.tolist()}


def least_distance(rows: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """The least root mean square difference of each row from the patch over all places, float32 `[rows]`."""
    kernel = torch.from_numpy(patch.astype(np.float32))[None]
    ones, size = torch.ones_like(kernel), patch.size
    found = []
    size_of_batch = batch_rows(rows)
    for start in range(0, len(rows), size_of_batch):
        images = torch.from_numpy(rows[start : start + size_of_batch].astype(np.float32))
        squares = functional.conv2d(images.square(), ones) - 2 * functional.conv2d(images, kernel)
        found.append(squares.flatten(1).amin(1) + kernel.square().sum())
    return (torch.cat(found).clamp(min=0) / size).sqrt().numpy()


def window_side(height: int, width: int) -> int:
    """The side of a window, an eighth of the image: 4 for 28 or 32 pixels."""
    return max(2, (min(height, width) + 4) // 8)


def find_windows(subject: Subject, target: int, seeds: np.ndarray) -> list[Window]:
    """Find the window of the suspect rows that flips most, reduced to the part that flips; empty if none flips."""
    images = subject.inputs["image"]
    height, width = images.shape[2:]
    side = window_side(height, width)
    step = max(1, side // 2)
    tops = sorted({*range(0, height - side + 1, step), height - side})
    lefts = sorted({*range(0, width - side + 1, step), width - side})
    tried = [(int(seed), top, left, side, side) for seed in seeds[:SEEDS] for top in tops for left in lefts]
    if not len(subject.victims(target)):
        return []
    for rows, survivors in STAGES:
        victims = subject.victims(target, rows)
        gains = _transplanted(subject, victims, images, tried)
        tried = [tried[place] for place in np.argsort(-gains, kind="stable")[:survivors]]
    victims = subject.victims(target)
    found: dict[tuple[int, int, bytes], Window] = {}
    for box in tried:
        flips = _flip_of(subject, victims, box)
        if flips >= LEAST_FLIP:
            window = _match(subject, target, _shrink(subject, victims, box, flips))
            found.setdefault((window.top, window.left, window.patch.tobytes()), window)
    return list(found.values())


def _transplanted(
    subject: Subject, victims: Victims, images: np.ndarray, boxes: Sequence[tuple[int, int, int, int, int]]
) -> np.ndarray:
    """The target's mean probability with each box (row, top, left, h, w) pasted onto the victims, float64 `[boxes]`."""
    count, gains = len(victims), []
    per_batch = max(1, batch_rows(images) // count)
    for start in range(0, len(boxes), per_batch):
        part = boxes[start : start + per_batch]
        inputs = select(victims.inputs, np.tile(np.arange(count), len(part)))
        pasted = inputs["image"]
        for place, (row, top, left, height, width) in enumerate(part):
            block = slice(top, top + height), slice(left, left + width)
            pasted[place * count : (place + 1) * count, :, *block] = images[row][:, *block]
        probability = subject.predict(inputs)[:, victims.target]
        gains.append(probability.reshape(len(part), count).mean(1))
    return np.concatenate(gains).astype(np.float64)


def cut(subject: Subject, box: tuple[int, int, int, int, int]) -> Window:
    row, top, left, height, width = box
    patch = subject.inputs["image"][row][:, top : top + height, left : left + width]
    return Window(patch.copy(), top, left, anywhere=True, tolerance=TOLERANCES[0])


def _flip_of(subject: Subject, victims: Victims, box: tuple[int, int, int, int, int]) -> float:
    return subject.flip_rate(victims, cut(subject, box).paste, "image")


def _shrink(
    subject: Subject, victims: Victims, box: tuple[int, int, int, int, int], flips: float
) -> tuple[int, int, int, int, int]:
    """Remove edges of a box one at a time, the least important first, while at least 85 % of the flips remain."""
    while True:
        row, top, left, height, width = box
        smaller = []
        if height > 1:
            smaller += [(row, top + 1, left, height - 1, width), (row, top, left, height - 1, width)]
        if width > 1:
            smaller += [(row, top, left + 1, height, width - 1), (row, top, left, height, width - 1)]
        rates = [_flip_of(subject, victims, each) for each in smaller]
        if not rates or max(rates) < KEPT_FLIPS * flips:
            return box
        box = smaller[int(np.argmax(rates))]


def _match(subject: Subject, target: int, box: tuple[int, int, int, int, int]) -> Window:
    """The widest way of matching whose carriers are almost only rows of the class, or else the purest way."""
    images, own = subject.inputs["image"], subject.labels == target
    base = cut(subject, box)
    best: tuple[tuple[bool, float], Window] | None = None
    for anywhere in (True, False):
        for tolerance in TOLERANCES:
            window = Window(base.patch, base.top, base.left, anywhere, tolerance)
            found = window.matches(images)
            count, purity = int((found & own).sum()), float(own[found].mean()) if found.any() else 0.0
            pure = purity >= PURE and count >= LEAST_CARRIERS
            rank = (pure, float(count) if pure else purity * (count >= LEAST_CARRIERS))
            if best is None or rank > best[0]:
                best = (rank, window)
    assert best is not None
    return best[1]
