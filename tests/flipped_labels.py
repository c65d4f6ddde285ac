"""Rows whose right labels, flips and judges are drawn, so that every estimate can be held against the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Simulated:
    """chances: p of the right label `[rows, classes]`; seen: what a calibrated judge says of the given one, p·F."""

    chances: np.ndarray
    right: np.ndarray
    given: np.ndarray
    matrix: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        return self.chances @ self.matrix

    @property
    def wrong(self) -> np.ndarray:
        return self.given != self.right


def uniform(classes: int, rate: float) -> np.ndarray:
    """Every label becomes each other one equally often."""
    matrix = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def in_pairs(classes: int, rate: float) -> np.ndarray:
    """Class k is labelled k + 1."""
    return (1 - rate) * np.eye(classes) + rate * np.roll(np.eye(classes), 1, axis=1)


def one_sided(rate: float) -> np.ndarray:
    """Class 0 is labelled 1, never the other way round."""
    return np.array([[1 - rate, rate], [0.0, 1.0]])


def simulate(seed: int, rows: int, matrix: np.ndarray, sureness: float = 4.0) -> Simulated:
    """Rows with logits of one class raised by about `sureness`; right labels are drawn from p, given ones from F."""
    rng, classes = np.random.default_rng(seed), len(matrix)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), rng.integers(classes, size=rows)] += rng.gamma(4, sureness / 4, rows)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    right = draw(rng, chances)
    return Simulated(chances, right, draw(rng, matrix[right]), matrix)


def draw(rng: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    """A class of each row, int64 `[rows]`."""
    return (rng.uniform(size=(len(chances), 1)) > chances.cumsum(1)[:, :-1]).sum(1)


def as_judged(seed: int, simulated: Simulated, noise: float) -> np.ndarray:
    """The opinion of a judge with errors of its own, float32 `[rows, classes]`."""
    rng = np.random.default_rng(seed)
    raised = simulated.seen * np.exp(noise * rng.normal(size=simulated.seen.shape))
    return (raised / raised.sum(1, keepdims=True)).astype(np.float32)
