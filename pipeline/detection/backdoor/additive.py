"""Pattern: a faint picture that is blended into the whole image, found where other classes hardly vary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from pipeline.detection.backdoor.subject import Names, Subject
from pipeline.seeds import random_state

RIDGE = 0.01
"""Added to the covariance, as a share of its mean variance."""
MOST_ROWS = 3000
"""The covariance is estimated from so many rows of other classes, and thresholds from as many further rows."""
MOST_FLOATS = 2**26
BEYOND = 0.999
ROUNDS = 8
LEAST_SEEDS = 3
LEAST_CARRIERS = 8
CLEAR = 0.1
"""The CLEAR quantile of the carriers must lie above the 1 − CLEAR² quantile of the other rows."""


@dataclass(frozen=True)
class Additive:
    """A blended picture: an image x becomes (1 − share)·x + added, and carriers have weights · x > threshold.

    Attributes:
        weights: float32 `[C, H, W]`.
        added: float32 `[C, H, W]`, for images in 0 … 1.
        share: of the added picture.
        threshold: of the carriers.
        separation: the cross-fitted distance of the carriers from the rest of their class, in standard deviations.
        gap: the 10 % quantile of the carriers minus the 99 % quantile of the rest, in the same unit.
    """

    weights: np.ndarray
    added: np.ndarray
    share: float
    threshold: float
    separation: float
    gap: float
    kind: ClassVar[str] = "additive"
    input: ClassVar[str] = "image"

    def paste(self, rows: np.ndarray) -> np.ndarray:
        return _to_bytes((1 - self.share) * rows.astype(np.float32) / 255 + self.added)

    def matches(self, rows: np.ndarray) -> np.ndarray:
        return self.project(rows) > self.threshold

    def project(self, rows: np.ndarray) -> np.ndarray:
        """The projections weights · x, float32 `[rows]`."""
        return _flatten(rows) @ self.weights.reshape(-1)

    def neutralise(self, rows: np.ndarray, carriers: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Return the rows unchanged: a model of pooled pixels hardly sees a blend.

        Subtracting `added` would be wrong if the carriers are a natural group, since it is then their content.
        """
        return rows

    def describe(self, names: Names) -> str:  # noqa: ARG002
        return "a faint picture blended into the whole image"

    def values(self, names: Names) -> dict[str, Any]:  # noqa: ARG002
        return {"share": self.share, "separation": self.separation, "gap": self.gap}


def _flatten(images: np.ndarray) -> np.ndarray:
    """Images as float32 `[rows, pixels]` in 0 … 1."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def _to_bytes(images: np.ndarray) -> np.ndarray:
    return (np.clip(images, 0, 1) * 255).round().astype(np.uint8)


class Whitening:
    """The inverse covariance of some rows with a ridge, computed in the smaller of the numbers of rows and pixels."""

    def __init__(self, rows: np.ndarray):
        self.centre = rows.mean(0)
        self._rows = (rows - self.centre) / np.sqrt(len(rows))
        self._ridge = RIDGE * float(np.square(self._rows).sum()) / rows.shape[1] + 1e-8
        self._wide = rows.shape[1] > len(rows)
        gram = self._rows @ self._rows.T if self._wide else self._rows.T @ self._rows
        gram[np.diag_indices_from(gram)] += self._ridge
        self._factor = cho_factor(gram, lower=True, overwrite_a=True)

    def solve(self, vectors: np.ndarray) -> np.ndarray:
        """Apply (covariance + ridge)⁻¹ to vectors `[n, pixels]`."""
        if not self._wide:
            return cho_solve(self._factor, vectors.T).T
        inner = cho_solve(self._factor, self._rows @ vectors.T)
        return (vectors - (self._rows.T @ inner).T) / self._ridge


class Separator:
    """Splits the rows of a class into carriers and other rows along whitened differences of means."""

    def __init__(self, own: np.ndarray, other: np.ndarray, random: np.random.RandomState):
        """Prepare the split; `own` and `other` are float32 `[rows, pixels]`, `other` in a random order."""
        self.fitted, self.held = other[::2], other[1::2]
        self.own = own
        self.whitening = Whitening(self.fitted)
        self.random = random

    def directions(self, members: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """A direction for each set of own rows, and the threshold that few rows of other classes exceed along it.

        All sets are solved for at once, so that the covariance is read once.

        Returns:
            float32 `[sets, pixels]`, scaled so that held-out rows of other classes have standard deviation 1; and
            float64 `[sets]`.
        """
        return self.scaled(np.stack([self.own[rows].mean(0) for rows in members]) - self.whitening.centre)

    def scaled(self, differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The result of `directions` for differences of means, float32 `[sets, pixels]`."""
        weights = self.whitening.solve(differences)
        held = weights @ self.held.T
        scale = np.maximum(held.std(1, keepdims=True), 1e-12)
        return weights / scale, np.quantile(held / scale, BEYOND, axis=1)

    def true_seeds(self, seeds: np.ndarray) -> np.ndarray:
        """The seeds that lie beyond the threshold along a direction that is made from the other seeds."""
        if len(seeds) < LEAST_SEEDS:
            return seeds[:0]
        rows = self.own[seeds]
        of_others = (rows.sum(0) - rows) / (len(seeds) - 1)
        weights, thresholds = self.scaled(of_others - self.whitening.centre)
        return seeds[(rows * weights).sum(1) > thresholds]

    def cross_fitted(self, members: np.ndarray) -> np.ndarray:
        """How far each own row lies beyond the threshold, float32 `[own rows]`; no member affects its own direction."""
        order = self.random.permutation(members)
        halves = [order[::2], order[1::2]]
        weights, thresholds = self.directions(halves)
        by = (weights @ self.own.T - thresholds[:, None]).astype(np.float32)
        values = (by[0] + by[1]) / 2
        values[halves[0]], values[halves[1]] = by[1][halves[0]], by[0][halves[1]]
        return values

    def split(self, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The places of the carriers, and the result of `cross_fitted`; None if the seeds share no direction."""
        members = self.true_seeds(seeds)
        if len(members) < LEAST_SEEDS:
            return None
        values = self.cross_fitted(members)
        for _ in range(ROUNDS):
            found = np.flatnonzero(_beyond(values))
            if len(found) < LEAST_CARRIERS or len(found) > 0.9 * len(self.own):
                return None
            values = self.cross_fitted(found)
            if np.array_equal(found, members):
                break
            members = found
        return np.flatnonzero(_beyond(values)), values


def _beyond(values: np.ndarray) -> np.ndarray:
    """Rows with values above 0 and above the midpoint of the means of positive and other values, bool `[rows]`."""
    above = values > 0
    if not above.any() or above.all():
        return above
    return above & (values > (values[above].mean() + values[~above].mean()) / 2)


def find_additive(subject: Subject, target: int, lists: list[np.ndarray]) -> list[Additive]:
    """Find a pattern for each list of suspect rows that share a direction."""
    images = subject.inputs["image"]
    random = random_state("additive backdoor", subject.seed, target)
    own = np.flatnonzero(subject.labels == target)
    other = random.permutation(np.flatnonzero(subject.labels != target))
    other = other[: min(2 * MOST_ROWS, MOST_FLOATS // images[0].size)]
    separator = Separator(_flatten(images[own]), _flatten(images[other]), random)
    place = {int(row): at for at, row in enumerate(own)}
    shape = images.shape[1:]
    found = []
    for seeds in lists:
        result = separator.split(np.array([place[int(seed)] for seed in seeds], dtype=np.int64))
        if result is not None and LEAST_CARRIERS <= len(result[0]) < len(own):
            found.append(_describe_split(separator, *result, shape))
    return found


def _describe_split(
    separator: Separator, carriers: np.ndarray, values: np.ndarray, shape: tuple[int, ...]
) -> Additive:
    """The blend that maps mean and spread of the other classes to those of the carriers."""
    is_carrier = np.zeros(len(values), dtype=bool)
    is_carrier[carriers] = True
    inside, rest = values[is_carrier], values[~is_carrier]
    spread = np.sqrt((inside.var() * len(inside) + rest.var() * len(rest)) / len(values)) + 1e-12
    low, high = np.quantile(inside, CLEAR), np.quantile(rest, 1 - CLEAR**2)
    (weights,), (beyond_others,) = separator.directions([carriers])
    contrast = separator.own[carriers].var(0).sum() / max(float(separator.fitted.var(0).sum()), 1e-12)
    kept = float(np.sqrt(np.clip(contrast * len(carriers) / (len(carriers) - 1), 0.04, 1.0)))
    threshold = beyond_others + max(0.0, float(low + high) / 2)
    return Additive(
        weights=weights.reshape(shape).astype(np.float32),
        added=(separator.own[carriers].mean(0) - kept * separator.whitening.centre)
        .reshape(shape)
        .astype(np.float32),
        share=1 - kept,
        threshold=float(threshold),
        separation=float((inside.mean() - rest.mean()) / spread),
        gap=float((low - high) / spread),
    )
