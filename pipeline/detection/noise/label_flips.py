"""Which labels are given instead of which, and how probable a given label is wrong: all from one noisy file.

Judges are fitted on labels of which some are wrong. With p the chances of the right label and F the flips, F[k, y] the
probability that a row of class k is labelled y, a judge that is calibrated on the given labels says q = p·F (Patrini et
al. 2017, arXiv 1609.03683, where F is called T). So p = q·F⁻¹, and by Bayes' rule

    P(k is right | features, given label y) = p_k · F[k, y] / Σ_j p_j · F[j, y].

Judges that are regularised are less sure of p than they could be: one temperature sharpens p, the one under which the
given labels are most probable, with F as it is. The mean of 1 − P(given label is right) is the share of wrong labels.

F is read off the rows whose class is surest. Among rows that are taken for k, the share of label y falls towards
F[k, y] as certainty rises, since what the judges confuse is confused where they are unsure; its limit is taken by least
squares over the surest part. Where few rows are known, a class is shrunk to the mean of all classes and a pair to the
mean of its class, by how much more they vary than sampling explains (empirical Bayes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from pipeline.detection.columns import slices
from pipeline.panel.opinions import panel_margin

SUREST = 0.7
"""Part of the rows taken for a class that the limit is fitted on."""
FEWEST_ROWS = 10
"""A class that fewer rows are taken for has the mean of the others."""
LEVERAGE = 4.0
"""Rows of a mean that are as good as one row of a limit: the variance of an intercept at the end of a line."""
LEAST_RATE = 1e-3
"""Of flips of a class: with none at all no label could be wrong, and rows could not be ranked."""
OWN_ERROR = 0.1
"""Of all disagreement with a class, the part that a limit may be off by, as a standard deviation beside sampling."""
TINY = 1e-4
MOST_NUMBERS = 2**22
"""Probabilities that are held in double precision at a time."""
TEMPERATURES = (-2.5, 1.0)
"""Logarithms of the least and the largest temperature."""


@dataclass(frozen=True)
class Flips:
    """matrix: float64 `[right, given]`, rows summing to 1; temperature: what sharpens the chances of right labels."""

    matrix: np.ndarray
    temperature: float


def estimate_flips(probabilities: np.ndarray, labels: np.ndarray) -> Flips:
    """From out-of-sample probabilities `[rows, classes]`, calibrated on given labels, and these labels `[rows]`."""
    matrix = flip_matrix(probabilities, labels)
    return Flips(matrix, fit_temperature(chances(probabilities, matrix), labels, matrix))


def flip_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """F, float64 `[right, given]`."""
    classes = probabilities.shape[1]
    taken = probabilities.argmax(1)
    sure = panel_margin(probabilities, taken)
    raw, seen, weight = np.eye(classes), np.eye(classes), np.zeros(classes)
    for of_class in range(classes):
        rows = np.flatnonzero(taken == of_class)
        if len(rows) >= FEWEST_ROWS:
            used = rows[np.argsort(-sure[rows], kind="stable")][: max(FEWEST_ROWS, int(SUREST * len(rows)))]
            raw[of_class] = limit(labels[used], classes)
            seen[of_class] = np.bincount(labels[rows], minlength=classes) / len(rows)
            weight[of_class] = len(used) / LEVERAGE
    return shrunk(raw, seen, weight)


def chances(probabilities: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """p of the right label, float64 `[rows, classes]`: q·F⁻¹, kept from below TINY."""
    found = np.maximum(probabilities.astype(np.float64) @ np.linalg.pinv(matrix), TINY)
    return found / found.sum(1, keepdims=True)


def sharpened(found: np.ndarray, temperature: float) -> np.ndarray:
    """p^(1/T) / Σ p^(1/T), `[rows, classes]`."""
    logs = np.log(found) / temperature
    raised = np.exp(logs - logs.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def fit_temperature(found: np.ndarray, labels: np.ndarray, matrix: np.ndarray) -> float:
    """The temperature of p under which the given labels are most probable."""

    def loss(log_temperature: float) -> float:
        likely = (sharpened(found, np.exp(log_temperature)) * matrix[:, labels].T).sum(1)
        return float(-np.log(np.maximum(likely, 1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=TEMPERATURES, method="bounded").x))


def limit(labels: np.ndarray, classes: int) -> np.ndarray:
    """Shares of the labels at certainty rank 0, float64 `[classes]`; labels: `[rows]`, the surest row first."""
    rows = len(labels)
    rank = (np.arange(rows) + 0.5) / rows
    line = np.stack([np.ones(rows), rank], 1)
    is_label = labels[:, None] == np.arange(classes)
    found = np.clip(np.linalg.lstsq(line, is_label.astype(np.float64), rcond=None)[0][0], 0, None)
    return found / found.sum()


def shrunk(raw: np.ndarray, seen: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The flips with classes and pairs shrunk.

    raw: limits `[right, given]`; seen: the shares of labels among all rows taken for a class; weight: `[classes]`, rows
    that a class's limits are as good as, 0: not known.
    """
    classes = len(raw)
    known = weight > 0
    if not known.any() or classes < 2:
        return np.eye(classes)
    rate, shares = 1 - np.diag(raw), weight / weight.sum()
    mean = float(rate @ shares)
    own = np.square(OWN_ERROR * (1 - np.diag(seen)))
    sampling = np.where(known, mean * (1 - mean) / np.maximum(weight, 1) + own, np.inf)
    between = max(0.0, float(np.sum(shares * (rate - mean) ** 2) - np.sum(shares[known] * sampling[known])))
    trust = np.where(known, between / (between + sampling) if between > 0 else 0.0, 0.0)
    rate = np.maximum(mean + trust * (rate - mean), LEAST_RATE)
    off = ~np.eye(classes, dtype=bool)
    even = np.repeat((rate / (classes - 1))[:, None], classes, 1)
    flips = even.copy()
    if classes > 2:
        count = np.maximum(weight, 1)[:, None]
        sampling_of_pair = np.maximum(even, 0.5 / count) / count + np.square(OWN_ERROR * seen)
        surplus = ((raw - even) ** 2 - sampling_of_pair)[off & known[:, None]]
        between = max(0.0, float(surplus.mean()))
        if between > 0:
            flips = np.where(
                known[:, None], even + between / (between + sampling_of_pair) * (raw - even), even
            )
    flips = np.where(off, np.maximum(flips, TINY), 0.0)
    flips *= (rate / flips.sum(1))[:, None]
    flips[~off] = 1 - rate
    return flips


def right_label(probabilities: np.ndarray, labels: np.ndarray, flips: Flips) -> np.ndarray:
    """P(class is right | features, given label), float32 `[rows, classes]`: the module's formula.

    probabilities: `[rows, classes]`, calibrated on given labels, of rows that the judges have not seen.
    """
    return bayes(probabilities, labels, flips, flips.matrix)


def bayes(probabilities: np.ndarray, labels: np.ndarray, flips: Flips, matrix: np.ndarray) -> np.ndarray:
    """Bayes' rule with `matrix` for how labels were flipped, which may be a source's own; in parts of the rows."""
    found = np.empty(probabilities.shape, dtype=np.float32)
    for place in slices(len(labels), max(1, MOST_NUMBERS // probabilities.shape[1])):
        joint = (
            sharpened(chances(probabilities[place], flips.matrix), flips.temperature)
            * matrix[:, labels[place]].T
        )
        found[place] = joint / np.maximum(joint.sum(1, keepdims=True), 1e-300)
    return found


def wrong_label(posterior: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """P(given label is wrong), float64 `[rows]`; posterior: what `right_label` gives."""
    return 1 - posterior[np.arange(len(labels)), labels].astype(np.float64)
