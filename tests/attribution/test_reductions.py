"""Losses that are means over tokens and outputs, against torch's own losses, exact unrolling and retraining."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution import (
    AttributionError,
    Objective,
    ReplayRecorder,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    binary_cross_entropy,
    cross_entropy,
    squared_error,
)

ROWS, WIDTH, TOKENS, CLASSES = 24, 3, 5, 3
WEIGHTS = torch.tensor([0.4, 1.0, 2.5], dtype=torch.float64)


def sequences(rows: int, seed: int, *, ragged: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, TOKENS, WIDTH, generator=generator).double()
    noise = torch.randn(rows, TOKENS, CLASSES, generator=generator)
    labels = (inputs + 1.5 * noise).argmax(-1)
    if ragged:
        lengths = torch.randint(1, TOKENS + 1, (rows,), generator=generator)
        labels[torch.arange(TOKENS) >= lengths[:, None]] = -100
    return inputs, labels


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "class weights"])
def test_the_mean_over_all_rows_is_torchs_default(weights: Tensor | None, smoothing: float) -> None:
    outputs, labels = sequences(ROWS, 0, ragged=True)
    told = cross_entropy(class_weights=weights, label_smoothing=smoothing, reduction="mean")
    assert told.fit is not None
    found = told.fit(labels.split(7)).losses(outputs, labels).mean()
    options = {"weight": weights, "label_smoothing": smoothing}
    expected = functional.cross_entropy(outputs.flatten(0, 1), labels.flatten(), **options)
    torch.testing.assert_close(found, expected)


def test_row_means_are_torchs_losses_of_single_rows() -> None:
    outputs, labels = sequences(ROWS, 0, ragged=True)
    found = cross_entropy(reduction="row_mean").losses(outputs, labels)
    rows = [functional.cross_entropy(outputs[row], labels[row]) for row in range(ROWS)]
    torch.testing.assert_close(found, torch.stack(rows))


def test_means_over_outputs_are_torchs_defaults() -> None:
    outputs, labels = torch.randn(6, 5), torch.rand(6, 5)
    for told, torchs in (
        (squared_error(reduction="mean"), functional.mse_loss),
        (binary_cross_entropy(reduction="mean"), functional.binary_cross_entropy_with_logits),
    ):
        torch.testing.assert_close(told.losses(outputs, labels).mean(), torchs(outputs, labels))


def test_a_mean_over_a_batch_asks_for_the_training_rows_first() -> None:
    outputs, labels = sequences(2, 0, ragged=True)
    told = cross_entropy(reduction="mean")
    with pytest.raises(AttributionError, match="which it doesn't know yet"):
        told.losses(outputs, labels)
    assert told.fit is not None
    with pytest.raises(AttributionError, match="No training row has a token"):
        told.fit([torch.full((2, TOKENS), -100)])


@pytest.mark.parametrize("make", [squared_error, binary_cross_entropy, cross_entropy])
def test_an_unknown_reduction_is_refused(make: Callable[..., Objective]) -> None:
    with pytest.raises(AttributionError, match=r"reduction is 'average'\. Use one of: sum, mean"):
        make(reduction="average")


class Training:
    """A token classifier that is trained by a loop with torch's default loss, and can be repeated with row weights."""

    def __init__(self, *, ragged: bool, steps: int, batch: int) -> None:
        self.inputs, self.labels = sequences(ROWS, 0, ragged=ragged)
        self.query = sequences(12, 1, ragged=ragged)
        generator = torch.Generator().manual_seed(2)
        epochs = -(-steps * batch // ROWS)
        order = torch.cat([torch.randperm(ROWS, generator=generator) for _ in range(epochs)])
        self.order = order.split(batch)[:steps]

    def run(
        self,
        weights: Tensor | None = None,
        record: Callable[..., Callable[..., None]] | None = None,
        told: Objective | None = None,
    ) -> nn.Module:
        """Trains with torch's loss, or with the mean of an objective's losses, which a replay repeats bit for bit."""
        torch.manual_seed(0)
        model = nn.Linear(WIDTH, CLASSES).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5, weight_decay=0.01)
        step = None if record is None else record(model, optimizer)
        for rows in self.order:
            outputs, labels = model(self.inputs[rows]).flatten(0, 1), self.labels[rows].flatten()
            if told is not None:
                loss = told.losses(outputs.unflatten(0, (-1, TOKENS)), self.labels[rows]).mean()
            elif weights is None:
                loss = functional.cross_entropy(outputs, labels)
            else:
                each = functional.cross_entropy(outputs, labels, reduction="none")
                loss = (each * weights[rows].repeat_interleave(TOKENS)).sum() / (labels != -100).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step is not None:
                step(rows, loss)
        return model

    def query_loss(self, weights: Tensor) -> float:
        """The mean over the rows of the query of their sums, in units of training rows' mean number of tokens."""
        inputs, labels = self.query
        outputs = self.run(weights)(inputs).flatten(0, 1)
        total = functional.cross_entropy(outputs, labels.flatten(), reduction="sum")
        return total.item() / len(inputs) / ((self.labels != -100).sum().item() / ROWS)

    def slopes(self, size: float) -> Tensor:
        """How the query loss falls when a row's weight falls, by training twice for every row."""
        found = []
        for row in range(ROWS):
            change = torch.zeros(ROWS).double()
            change[row] = size
            found.append((self.query_loss(1 + change) - self.query_loss(1 - change)) / (2 * size))
        return torch.tensor(found).double()


def test_unrolled_harm_of_a_token_mean_is_that_of_retraining(tmp_path: Path) -> None:
    training = Training(ragged=False, steps=12, batch=ROWS)

    def record(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[..., None]:
        sizes = {"steps": 12, "train_rows": ROWS, "tail": 0.0}
        trajectory = TrajectoryRecorder(model, optimizer, tmp_path / "trajectory", batch_size=ROWS, **sizes)
        replay = ReplayRecorder(model, optimizer, tmp_path / "replay", **sizes)

        def step(rows: Tensor, loss: Tensor) -> None:
            trajectory.step(loss=loss)
            replay.step(rows)

        return step

    told = cross_entropy(reduction="mean")
    assert told.fit is not None
    model = training.run(record=record, told=told.fit([training.labels]))
    found = attribute(
        model,
        Trajectory.load(tmp_path / "trajectory"),
        [(training.inputs, training.labels)],
        [training.query],
        loss=told,
        query_at="final",
        method="unrolled",
        recording=tmp_path / "replay",
    )
    assert found.method == "unrolled"
    torch.testing.assert_close(found.harm, training.slopes(1e-5), rtol=1e-5, atol=1e-9)


def test_truth_has_the_slope_one_on_forecasts_with_the_right_reduction_alone(tmp_path: Path) -> None:
    """Rows have one to five tokens, so a batch's own number of tokens differs from the mean number."""
    training = Training(ragged=True, steps=60, batch=8)

    def record(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[..., None]:
        recorder = TrajectoryRecorder(
            model, optimizer, tmp_path, steps=60, train_rows=ROWS, batch_size=8, tail=0.0
        )
        return lambda _rows, loss: recorder.step(loss=loss)

    model = training.run(record=record)
    truth = training.slopes(0.01)

    def slope(loss: Objective) -> float:
        found = attribute(
            model,
            Trajectory.load(tmp_path),
            [(training.inputs, training.labels)],
            [training.query],
            loss=loss,
            query_at="final",
            method="source_refined",
        ).harm
        assert found is not None
        assert torch.corrcoef(torch.stack([found, truth]))[0, 1] > 0.95
        return float(truth @ found / (found @ found))

    assert slope(cross_entropy(reduction="mean")) == pytest.approx(1, abs=0.15)
    with pytest.warns(UserWarning, match="They fit reduction='mean'"):
        assert slope(cross_entropy()) < 0.5
