"""Label flips: how often each label is given instead of another, and how probable each given label is wrong.

Everything is estimated from one noisy file. Judges are fitted on labels of which some are wrong. Let p be the
probabilities of the right label, and F[k, y] the probability that a row of class k is labelled y. A judge that is
calibrated on the given labels predicts q = p·F (Patrini et al. 2017, arXiv 1609.03683, where F is called T). So
p = q·F⁻¹, and by Bayes' rule

    P(k is right | features, given label y) = p_k · F[k, y] / Σ_j p_j · F[j, y].

Regularised judges are underconfident about p. One temperature sharpens p; it maximises the likelihood of the given
labels for fixed F. The mean of 1 − P(given label is right) is the share of wrong labels.

F is estimated from the rows with the most certain class. Among rows that are predicted as k, the share of label y falls
towards F[k, y] as certainty rises, because judges confuse classes where they are uncertain. A least-squares fit over
the most certain rows gives the limit. With few rows, a class is shrunk to the mean of all classes and a pair to the
mean of its class, by how much more they vary than sampling explains (empirical Bayes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from pipeline.detection.columns import slices
from pipeline.panel.opinions import panel_margin

SUREST = 0.7
"""The share of the rows predicted as a class, the most certain ones, on which the limit is fitted."""
FEWEST_ROWS = 10
"""A class that is predicted for fewer rows gets the mean of the other classes."""
LEVERAGE = 4.0
"""So many rows give a limit as precisely as one row gives a mean: an intercept at the end of a line varies more."""
LEAST_RATE = 1e-3
"""Lower limit of a class's rate of flips; with a rate of 0 no label could be wrong, and rows could not be ranked."""
OWN_ERROR = 0.1
"""The standard deviation of a limit besides sampling, as a share of all disagreement with its class."""
TINY = 1e-4
MOST_NUMBERS = 2**22
"""Upper limit of probabilities that are held in float64 at a time."""
TEMPERATURES = (-2.5, 1.0)
"""The logarithms of the lowest and the highest temperature."""


@dataclass(frozen=True)
class Flips:
    """Label flips.

    Attributes:
        matrix: F, float64 `[right, given]`; every row sums to 1.
        temperature: sharpens the probabilities of the right label.
    """

    matrix: np.ndarray
    temperature: float


def estimate_flips(probabilities: np.ndarray, labels: np.ndarray) -> Flips:
    """Estimate the flips.

    Args:
        probabilities: out of sample, calibrated on the given labels, `[rows, classes]`.
        labels: the given labels, `[rows]`.
    """
    matrix = flip_matrix(probabilities, labels)
    return Flips(matrix, _fit_temperature(chances(probabilities, matrix), labels, matrix))


def flip_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Estimate F, float64 `[right, given]`, from the same arguments as `estimate_flips`."""
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
    """p, the probabilities of the right label, float64 `[rows, classes]`: q·F⁻¹, at least TINY."""
    found = np.maximum(probabilities.astype(np.float64) @ np.linalg.pinv(matrix), TINY)
    return found / found.sum(1, keepdims=True)


def sharpened(found: np.ndarray, temperature: float) -> np.ndarray:
    """Sharpen probabilities to p^(1/T) / Σ p^(1/T), `[rows, classes]`."""
    logs = np.log(found) / temperature
    raised = np.exp(logs - logs.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def _fit_temperature(found: np.ndarray, labels: np.ndarray, matrix: np.ndarray) -> float:
    """The temperature of p that maximises the likelihood of the given labels."""

    def loss(log_temperature: float) -> float:
        likely = (sharpened(found, np.exp(log_temperature)) * matrix[:, labels].T).sum(1)
        return float(-np.log(np.maximum(likely, 1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=TEMPERATURES, method="bounded").x))


def limit(labels: np.ndarray, classes: int) -> np.ndarray:
    """The limits of the labels' shares at full certainty, float64 `[classes]`; `labels` is ordered by certainty."""
    rows = len(labels)
    rank = (np.arange(rows) + 0.5) / rows
    line = np.stack([np.ones(rows), rank], 1)
    is_label = labels[:, None] == np.arange(classes)
    found = np.clip(np.linalg.lstsq(line, is_label.astype(np.float64), rcond=None)[0][0], 0, None)
    return found / found.sum()


def shrunk(raw: np.ndarray, seen: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Shrink the flips of classes and pairs to their means.

    Args:
        raw: the limits, `[right, given]`.
        seen: the shares of labels among all rows predicted as a class, `[right, given]`.
        weight: `[classes]`, the number of rows whose mean would be as precise as a class's limits; 0 if unknown.

    Returns:
        F, float64 `[right, given]`.
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
    """P(class is right | features, given label) by the formula of the module docstring.

    Args:
        probabilities: out of sample, calibrated on the given labels, `[rows, classes]`.
        labels: the given labels, `[rows]`.
        flips: the label flips.

    Returns:
        float32 `[rows, classes]`.
    """
    return bayes(probabilities, labels, flips, flips.matrix)


def bayes(probabilities: np.ndarray, labels: np.ndarray, flips: Flips, matrix: np.ndarray) -> np.ndarray:
    """Bayes' rule with `matrix` as F, for example the flips of one source; rows are computed in parts."""
    found = np.empty(probabilities.shape, dtype=np.float32)
    for place in slices(len(labels), max(1, MOST_NUMBERS // probabilities.shape[1])):
        joint = (
            sharpened(chances(probabilities[place], flips.matrix), flips.temperature)
            * matrix[:, labels[place]].T
        )
        found[place] = joint / np.maximum(joint.sum(1, keepdims=True), 1e-300)
    return found


def wrong_label(posterior: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """P(given label is wrong), float64 `[rows]`; `posterior` is the result of `right_label`."""
    return 1 - posterior[np.arange(len(labels)), labels].astype(np.float64)
