from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from digits_run import ROOT, digits_config, run_until
from torch import Tensor

from pipeline.detection.judges.calibration import (
    at_temperature,
    calibrate,
    fit_both,
    fit_noise,
    fit_temperature,
    posterior,
    suggestion_probability,
)
from pipeline.runs.directory import RunDirectory


def simulate(
    temperature: float, noise: float, rows: int = 20000, classes: int = 5
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities that are right at the temperature, labels of which a share was exchanged, and right labels."""
    generator = torch.Generator().manual_seed(0)
    right_ones = (2.5 * torch.randn(rows, classes, generator=generator)).softmax(1)
    truth = torch.multinomial(right_ones, 1, generator=generator).squeeze(1)
    shift = torch.randint(1, classes, (rows,), generator=generator)
    wrong = torch.rand(rows, generator=generator) < noise
    labels = torch.where(wrong, (truth + shift) % classes, truth)
    return at_temperature(right_ones, 1 / temperature), labels, truth


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over ten bins of equal width."""
    bins = np.minimum((10 * probability).astype(int), 9)
    gaps = [
        (bins == each).mean() * abs(probability[bins == each].mean() - right[bins == each].mean())
        for each in np.unique(bins)
    ]
    return float(sum(gaps))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_that_makes_probabilities_right_is_found(temperature: float) -> None:
    probabilities, labels, _ = simulate(temperature, 0.0)
    assert fit_temperature(probabilities, labels) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_the_share_of_wrong_labels_is_found_beside_the_temperature(noise: float) -> None:
    probabilities, labels, _ = simulate(0.5, noise)
    assert fit_noise(at_temperature(probabilities, 0.5), labels) == pytest.approx(noise, abs=0.01)
    both = fit_both(probabilities, labels)
    assert both == pytest.approx((0.5, noise), abs=0.03)


def test_suggestions_are_right_as_often_as_their_probability_says() -> None:
    probabilities, labels, truth = simulate(0.5, 0.1)
    best = probabilities.argmax(1)
    suggested = best != labels
    right = (best == truth)[suggested].numpy()
    calibrated = posterior(at_temperature(probabilities, 0.5), labels, 0.1)[suggested.numpy()]
    assert calibration_error(calibrated, right) < 0.02
    assert calibration_error(probabilities.amax(1)[suggested].numpy(), right) > 0.1


@pytest.mark.parametrize("panel", [True, False])
def test_on_real_digits_suggestions_are_calibrated(detected_run: Path, panel: bool) -> None:
    if not panel:
        run_until(digits_config(detection__panel=False), detected_run, "detect")
    facts = RunDirectory(detected_run).facts("detect")
    rows = pq.read_table(detected_run / "rows.parquet")
    truth = pq.read_table(ROOT / "data_samples/digits/truth.parquet").to_pydict()
    true = dict(zip(map(str, truth["index"]), truth["true_label"]))
    right = np.array(
        [
            true[key] == label
            for key, label in zip(rows["row_key"].to_pylist(), rows["suggested_label"].to_pylist())
        ]
    )
    suggested = rows["suggested_label"].is_valid().to_numpy()
    probability = rows["suggested_probability"].to_numpy()
    assert calibration_error(probability[suggested], right[suggested]) < 0.12
    if panel:
        assert facts["calibration"] is None
        return
    assert facts["calibration"]["fitted_on"] == "validation rows"
    window = facts["window_epochs"]
    calibration = calibrate(detected_run, window)
    assert calibration is not None
    found = suggestion_probability(detected_run, window, calibration)
    assert found[suggested] == pytest.approx(probability[suggested])


def test_relabelling_follows_the_calibrated_probability(detected_run: Path) -> None:
    run_until(digits_config(detection__relabel_above=0.9), detected_run, "detect")
    rows = pq.read_table(detected_run / "rows.parquet").to_pydict()
    relabelled = [p for p, d in zip(rows["suggested_probability"], rows["decision"]) if d == "relabel"]
    removed = [p for p, d in zip(rows["suggested_probability"], rows["decision"]) if d == "remove"]
    assert len(relabelled) > 20
    assert min(relabelled) >= 0.9
    assert all(p is None or p < 0.9 for p in removed)
