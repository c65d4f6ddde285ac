"""Probabilities of suggested labels that mean what they say.

Two things stand between what the halves think of a row out of sample and the probability that the label they suggest is
right. Their probabilities are averages over the early window and not sure enough: one temperature mends that (Guo et
al. 2017, arXiv 1706.04599). And a label is only suggested where it contradicts the given one, which is evidence too:
rows are labelled wrongly less often than models err. With ε the share of wrong labels, each as likely to be any other
class, and p the row's probabilities at the temperature,

    P(k is right | features, given label y) = p_k · ε/(K−1) / (p_y · (1−ε) + (1−p_y) · ε/(K−1)).

ε is what makes the given train labels most probable out of sample. The temperature is fitted by the log loss of the
validation rows, each judged by each half. Wrong labels there make it too high and ε and the suggestions' probabilities
too low: less is relabelled. Without validation rows both are fitted on the train rows together; where the classes are
hard to tell apart, that takes wrong labels for the model's errors (ε near 0), and then nothing is calibrated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from pipeline.detection.judges.halves import (
    Measurements,
    mean_probabilities,
    pieces,
    reading,
    reading_train,
    role_files,
)
from pipeline.training.halves import HALVES
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data

MOST_NUMBERS = 2**22
"""Probabilities that something is fitted on: rows × classes."""
WIDEST = 3.0
"""The logarithm of the temperature lies within ±WIDEST."""
LEAST = 1e-6
"""Probabilities below it are taken for it where their logarithm is needed; also the least ε."""
MOST_NOISE = 0.9
TOO_LITTLE = 0.01
"""Below this ε, fitted together with the temperature, wrong labels were not told from the model's errors."""


@dataclass(frozen=True)
class Calibration:
    """temperature: that probabilities are taken to; noise: ε, in 0..1; fitted_on: where the temperature comes from."""

    temperature: float
    noise: float
    fitted_on: str


def calibrate(run_path: Path, window: int) -> Calibration | None:
    """For classification with halves whose probabilities are averaged over the first `window` epochs."""
    train = sample(run_path, "train", reading_train(run_path, window), window)
    if not run_data(run_path).count("validation"):
        both = Calibration(*fit_both(*train), "train rows out of sample")
        return both if both.noise >= TOO_LITTLE else None
    files = [role_files(run_path, half, "validation", window) for half in HALVES]
    parts = [sample(run_path, "validation", reading(each), window) for each in files]
    probabilities, labels = (torch.cat(each) for each in zip(*parts))
    temperature = fit_temperature(probabilities, labels)
    return Calibration(
        temperature, fit_noise(at_temperature(train[0], temperature), train[1]), "validation rows"
    )


def suggestion_probability(run_path: Path, window: int, calibration: Calibration) -> np.ndarray:
    """float64 `[train rows]`: that the best other label out of sample is right, given that the row has its own."""
    data = run_data(run_path)
    labels, outputs = role_labels(data, "train").long(), data.encoding.outputs
    measurements, found = reading_train(run_path, window), np.empty(len(labels))
    for place in pieces(len(labels), outputs):
        mean = with_own(*mean_probabilities(measurements(place), place, outputs, window), labels[place])
        found[place] = posterior(
            at_temperature(mean, calibration.temperature), labels[place], calibration.noise
        )
    return found


def posterior(probabilities: Tensor, labels: Tensor, noise: float) -> np.ndarray:
    """The module's formula for the best k that is not y: float64 `[rows]`."""
    flip = noise / (probabilities.shape[1] - 1)
    own = probabilities.gather(1, labels[:, None]).squeeze(1).double()
    other = probabilities.scatter(1, labels[:, None], -1.0).amax(1).double()
    return (other * flip / (own * (1 - noise) + (1 - own) * flip)).clamp(max=1.0).numpy()


def sample(run_path: Path, role: str, measurements: Measurements, count: int) -> tuple[Tensor, Tensor]:
    """Mean probabilities, float32 `[some rows, classes]`, of equally spaced rows of the role, and their labels."""
    data = run_data(run_path)
    rows, outputs = data.count(role), data.encoding.outputs
    labels = role_labels(data, role).long()
    which = torch.arange(0, rows, -(-rows * outputs // MOST_NUMBERS))
    parts = []
    for place in pieces(rows, outputs):
        mean = with_own(*mean_probabilities(measurements(place), place, outputs, count), labels[place])
        parts.append(mean[which[(which >= place.start) & (which < place.stop)] - place.start])
    return torch.cat(parts), labels[which]


def with_own(mean: Tensor, own: np.ndarray, labels: Tensor) -> Tensor:
    """The probability of the given label is known also where it is not among the ten best."""
    return mean.scatter(1, labels[:, None], torch.from_numpy(own).float()[:, None])


def at_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """p^(1/T) / Σ p^(1/T) along the last dimension; a temperature above 1 makes them less sure."""
    return (probabilities.clamp(min=LEAST).log() / temperature).softmax(-1)


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float:
    """The temperature of least log loss; float32 `[rows, classes]`, int64 `[rows]`."""

    def loss(log_temperature: float) -> float:
        return log_loss(at_temperature(probabilities, np.exp(log_temperature)), labels, 0.0)

    return float(np.exp(minimize_scalar(loss, bounds=(-WIDEST, WIDEST), method="bounded").x))


def fit_noise(probabilities: Tensor, labels: Tensor) -> float:
    """ε of least log loss of the labels."""
    found = minimize_scalar(
        lambda noise: log_loss(probabilities, labels, noise), bounds=(LEAST, MOST_NOISE), method="bounded"
    )
    return float(found.x)


def fit_both(probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    """Temperature and ε of least log loss together."""

    def loss(log_temperature: float) -> float:
        scaled = at_temperature(probabilities, np.exp(log_temperature))
        return log_loss(scaled, labels, fit_noise(scaled, labels))

    temperature = float(np.exp(minimize_scalar(loss, bounds=(-WIDEST, WIDEST), method="bounded").x))
    return temperature, fit_noise(at_temperature(probabilities, temperature), labels)


def log_loss(probabilities: Tensor, labels: Tensor, noise: float) -> float:
    """Mean over the rows of −log of the labels' probability, in which a share `noise` of the labels is another's."""
    own = probabilities.gather(1, labels[:, None]).squeeze(1).double()
    likely = own * (1 - noise) + (1 - own) * noise / (probabilities.shape[1] - 1)
    return -likely.clamp(min=1e-12).log().mean().item()
