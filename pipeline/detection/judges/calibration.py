"""Calibrated probabilities of suggested labels, from the halves.

Two corrections lead from the halves' out-of-sample probabilities to the probability that the suggested label is right.
The probabilities are averages over the early window and are underconfident; one temperature corrects that (Guo et al.
2017, arXiv 1706.04599). The given label is evidence too: labels are wrong less often than models err. Let ε be the
share of wrong labels, each equally likely to be any other class, and p the probabilities at the temperature. Then

    P(k is right | features, given label y) = p_k · ε/(K−1) / (p_y · (1−ε) + (1−p_y) · ε/(K−1)).

ε maximises the likelihood of the given train labels out of sample. The temperature minimises the log loss of the
validation rows, each judged by each half. Wrong validation labels make the temperature too high, and ε and the
probabilities of suggestions too low, so that fewer rows are relabelled. Without validation rows, temperature and ε are
fitted together on the train rows. If the classes are hard to tell apart, this fit takes wrong labels for errors of the
model (ε near 0), and then there is no calibration.
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
"""Upper limit of probabilities (rows × classes) in a fit."""
WIDEST = 3.0
"""The logarithm of the temperature lies within ±WIDEST."""
LEAST = 1e-6
"""Lower limit of probabilities whose logarithm is taken, and of ε."""
MOST_NOISE = 0.9
TOO_LITTLE = 0.01
"""If ε, fitted together with the temperature, is below this, the fit did not tell wrong labels from model errors."""


@dataclass(frozen=True)
class Calibration:
    """A calibration.

    Attributes:
        temperature: of the probabilities.
        noise: ε, in 0..1.
        fitted_on: the rows that the temperature was fitted on, in words.
    """

    temperature: float
    noise: float
    fitted_on: str


def calibrate(run_path: Path, window: int) -> Calibration | None:
    """Fit the calibration for a classification with halves, from means over the first `window` epochs.

    Returns:
        None if wrong labels can't be told from errors of the model.
    """
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
    """The probability that the best other label is right, given the label of the row, float64 `[train rows]`."""
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
    """The formula of the module docstring for the most probable k other than y, float64 `[rows]`."""
    flip = noise / (probabilities.shape[1] - 1)
    own = probabilities.gather(1, labels[:, None]).squeeze(1).double()
    other = probabilities.scatter(1, labels[:, None], -1.0).amax(1).double()
    return (other * flip / (own * (1 - noise) + (1 - own) * flip)).clamp(max=1.0).numpy()


def sample(run_path: Path, role: str, measurements: Measurements, count: int) -> tuple[Tensor, Tensor]:
    """Mean probabilities of equally spaced rows of a role, float32 `[some rows, classes]`, and their labels."""
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
    """Fill in the probability of the given label, which is also known if it is not among the ten best classes."""
    return mean.scatter(1, labels[:, None], torch.from_numpy(own).float()[:, None])


def at_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """p^(1/T) / Σ p^(1/T) along the last dimension; a temperature above 1 makes probabilities less confident."""
    return (probabilities.clamp(min=LEAST).log() / temperature).softmax(-1)


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float:
    """The temperature with the lowest log loss, for float32 `[rows, classes]` and int64 `[rows]`."""

    def loss(log_temperature: float) -> float:
        return log_loss(at_temperature(probabilities, np.exp(log_temperature)), labels, 0.0)

    return float(np.exp(minimize_scalar(loss, bounds=(-WIDEST, WIDEST), method="bounded").x))


def fit_noise(probabilities: Tensor, labels: Tensor) -> float:
    """The ε with the lowest log loss of the labels."""
    found = minimize_scalar(
        lambda noise: log_loss(probabilities, labels, noise), bounds=(LEAST, MOST_NOISE), method="bounded"
    )
    return float(found.x)


def fit_both(probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    """The temperature and ε that together have the lowest log loss."""

    def loss(log_temperature: float) -> float:
        scaled = at_temperature(probabilities, np.exp(log_temperature))
        return log_loss(scaled, labels, fit_noise(scaled, labels))

    temperature = float(np.exp(minimize_scalar(loss, bounds=(-WIDEST, WIDEST), method="bounded").x))
    return temperature, fit_noise(at_temperature(probabilities, temperature), labels)


def log_loss(probabilities: Tensor, labels: Tensor, noise: float) -> float:
    """The mean log loss of the labels, if a share `noise` of them is replaced by another class at random."""
    own = probabilities.gather(1, labels[:, None]).squeeze(1).double()
    likely = own * (1 - noise) + (1 - own) * noise / (probabilities.shape[1] - 1)
    return -likely.clamp(min=1e-12).log().mean().item()
