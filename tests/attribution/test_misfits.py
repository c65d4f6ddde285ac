"""Training that doesn't fit the loss that attribute is told: each misfit is named with its factor, no other is."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution import (
    Objective,
    StageData,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    cross_entropy,
    squared_error,
)
from pipeline.attribution.misfits.expected import checked_rows, expected_at
from pipeline.attribution.rows.batch import Batch

ROWS, WIDTH, CLASSES, TOKENS, OUTPUTS = 240, 8, 4, 6, 5
Loss = Callable[[Tensor, Tensor], Tensor]


def entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def smoothed(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, label_smoothing=0.1)


def problem(kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (ROWS, TOKENS) if kind in ("tokens", "ragged") else (ROWS,)
    inputs = torch.randn(*shape, WIDTH, generator=generator)
    if kind == "numbers":
        return inputs, inputs[:, :OUTPUTS].sin() + 0.3 * torch.randn(ROWS, OUTPUTS, generator=generator)
    labels = (inputs[..., :CLASSES] + 0.7 * torch.randn(*shape, CLASSES, generator=generator)).argmax(-1)
    if kind == "ragged":
        lengths = torch.randint(1, TOKENS + 1, (ROWS,), generator=generator)
        labels[torch.arange(TOKENS) >= lengths[:, None]] = -100
    return inputs, labels


class Loop:
    """A training loop as people write it."""

    def __init__(
        self,
        kind: str = "classes",
        loss: Loss = entropy,
        *,
        batch: int = 20,
        micro: int | None = None,
        divide: bool = True,
        clip: float | None = None,
        dropout: float = 0.0,
        given: float = 1.0,
        optimizer: str = "sgd",
        epochs: int = 12,
    ) -> None:
        self.inputs, self.labels = problem(kind)
        self.loss, self.batch, self.micro, self.divide = loss, batch, micro or batch, divide
        self.clip, self.given, self.epochs, self.optimizer = clip, given, epochs, optimizer
        torch.manual_seed(1)
        outputs = OUTPUTS if kind == "numbers" else CLASSES
        self.model = nn.Sequential(
            nn.Linear(WIDTH, 24), nn.ReLU(), nn.Dropout(dropout), nn.Linear(24, outputs)
        )
        self.norms: list[float] = []

    def record(self, directory: Path, *, loss: bool = True, norms: bool = True) -> Loop:
        kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
        rate = 0.1 if self.optimizer == "sgd" else 0.005
        optimizer = kinds[self.optimizer](self.model.parameters(), lr=rate)
        steps = self.epochs * (len(self.inputs) // self.batch)
        recorder = TrajectoryRecorder(
            self.model,
            optimizer,
            directory,
            steps=steps,
            train_rows=len(self.inputs),
            batch_size=self.batch if norms else None,
        )
        for _ in range(self.epochs):
            for rows in torch.randperm(len(self.inputs)).split(self.batch):
                for part in rows.split(self.micro):
                    found = self.loss(self.model(self.inputs[part]), self.labels[part])
                    (found / (len(rows) // len(part) if self.divide else 1)).backward()
                if self.clip is not None:
                    norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
                    self.norms.append(float(norm))
                optimizer.step()
                optimizer.zero_grad()
                recorder.step(loss=found * self.given if loss else None)
        return self

    def said(self, directory: Path, loss: str | Objective = "cross_entropy") -> list[str]:
        """The warnings of attribute."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            attribute(
                self.model,
                Trajectory.load(directory),
                list(zip(self.inputs.split(100), self.labels.split(100), strict=True)),
                loss=loss,
                method="graddot",
            )
        return [str(each.message) for each in caught]


def factor(sentence: str) -> float:
    found = re.search(r"are ([\d.e-]+) times", sentence)
    assert found is not None, sentence
    return float(found[1])


RIGHT = {
    "classes": (Loop(), "cross_entropy"),
    "classes by AdamW": (Loop(optimizer="adamw"), "cross_entropy"),
    "dropout": (Loop(dropout=0.4), "cross_entropy"),
    "token mean": (Loop("tokens"), cross_entropy(reduction="mean")),
    "token mean with padding": (Loop("ragged"), cross_entropy(reduction="mean")),
    "mean over outputs": (Loop("numbers", functional.mse_loss), squared_error(reduction="mean")),
    "label smoothing": (Loop(loss=smoothed, epochs=30), cross_entropy(label_smoothing=0.1)),
    "accumulation": (Loop(batch=40, micro=10), "cross_entropy"),
    "a limit that is never met": (Loop(clip=1e6), "cross_entropy"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_loss_is_silent(name: str, tmp_path: Path) -> None:
    loop, told = RIGHT[name]
    assert loop.record(tmp_path).said(tmp_path, told) == []


@pytest.mark.parametrize("batch", [9, 3, 1])
def test_few_rows_are_silent(batch: int, tmp_path: Path) -> None:
    loop = Loop(batch=batch, epochs=12 * batch)
    loop.inputs, loop.labels = loop.inputs[:9], loop.labels[:9]
    assert loop.record(tmp_path).said(tmp_path) == []


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_the_expected_norm_is_the_mean_over_all_batches(batch: int) -> None:
    inputs, labels = (each[:7] for each in problem("classes"))
    torch.manual_seed(0)
    model = nn.Linear(WIDTH, CLASSES)
    parts = checked_rows([Batch(inputs, labels, torch.arange(7))], 7, seed=0)
    found = expected_at(model, cross_entropy(), {}, parts, 7, batch, seed=0).squared_norm
    norms = []
    for rows in itertools.combinations(range(7), batch):
        loss = entropy(model(inputs[list(rows)]), labels[list(rows)])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norms.append(sum(float(each.square().sum()) for each in gradients))
    assert found is not None
    assert found.mean == pytest.approx(sum(norms) / len(norms), rel=1e-5)
    assert found.error < 1e-6 if batch == 7 else found.error > 0


@pytest.mark.parametrize("norms", [True, False], ids=["loss and norms", "loss alone"])
@pytest.mark.parametrize(
    ("kind", "loss", "told", "expected"),
    [
        ("tokens", entropy, "cross_entropy", 1 / TOKENS),
        ("numbers", functional.mse_loss, "squared_error", 1 / OUTPUTS),
    ],
)
def test_a_mean_that_was_told_as_a_sum_is_named(
    kind: str, loss: Loss, told: str, expected: float, norms: bool, tmp_path: Path
) -> None:
    (said,) = Loop(kind, loss).record(tmp_path, norms=norms).said(tmp_path, told)
    assert factor(said) == pytest.approx(expected, rel=0.15)
    assert f"They fit reduction='mean': give loss={told}(reduction='mean')" in said


def test_gradients_alone_name_a_mean_that_was_told_as_a_sum(tmp_path: Path) -> None:
    (said,) = Loop("tokens").record(tmp_path, loss=False).said(tmp_path)
    assert said.startswith("Training's gradients are")
    assert factor(said) == pytest.approx(1 / TOKENS, rel=0.25)
    assert "They fit reduction='mean'" in said


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_clipping_is_named_with_its_factor_and_limit(optimizer: str, tmp_path: Path) -> None:
    loop = Loop(clip=0.2, optimizer=optimizer).record(tmp_path)
    (said,) = loop.said(tmp_path)
    norms = torch.tensor(loop.norms)
    assert factor(said) == pytest.approx(float(norms.clamp(max=0.2).mean() / norms.mean()), rel=0.2)
    assert "have the norm 0.2, as after clip_grad_norm_" in said


def test_accumulation_without_division_is_named(tmp_path: Path) -> None:
    (said,) = Loop(batch=40, micro=10, divide=False).record(tmp_path).said(tmp_path)
    assert factor(said) == pytest.approx(4, rel=0.2)
    assert "mean over batch_size=40 rows" in said
    assert "Divide the loss by the number of backward() calls" in said


def test_label_smoothing_that_was_not_told_is_named(tmp_path: Path) -> None:
    loop = Loop(loss=smoothed, epochs=30).record(tmp_path)
    (said,) = loop.said(tmp_path)
    found = re.search(r"label smoothing of ([\d.]+), not 0: give loss=cross_entropy", said)
    assert found is not None
    assert float(found[1]) == pytest.approx(0.1, abs=0.03)
    outputs = loop.model(loop.inputs)
    final = smoothed(outputs, loop.labels) / entropy(outputs, loop.labels)
    assert 1 < factor(said) < 1.2 * float(final)


def test_label_smoothing_that_training_did_not_have_is_named(tmp_path: Path) -> None:
    (said,) = Loop(epochs=30).record(tmp_path).said(tmp_path, cross_entropy(label_smoothing=0.1))
    found = re.search(r"label smoothing of ([\d.]+), not 0.1: give loss=cross_entropy", said)
    assert found is not None
    assert float(found[1]) < 0.03


def test_a_loss_that_was_divided_before_it_was_given_does_not_blame_training(tmp_path: Path) -> None:
    (said,) = Loop(given=0.25).record(tmp_path).said(tmp_path)
    assert factor(said) == pytest.approx(0.25, rel=0.15)
    assert "but the gradients fit it" in said


def test_a_factor_that_nothing_explains_is_said_once(tmp_path: Path) -> None:
    (said,) = Loop(loss=lambda outputs, labels: 3 * entropy(outputs, labels)).record(tmp_path).said(tmp_path)
    assert factor(said) == pytest.approx(3, rel=0.15)
    assert "Tell attribute the loss of training" in said


def test_nothing_is_said_where_nothing_was_measured(tmp_path: Path) -> None:
    loop = Loop("tokens").record(tmp_path, loss=False, norms=False)
    assert Trajectory.load(tmp_path).measured == ()
    assert loop.said(tmp_path) == []


def test_a_stage_is_compared_with_its_own_loss(tmp_path: Path) -> None:
    inputs, labels = problem("classes")
    torch.manual_seed(0)
    model = nn.Linear(WIDTH, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sizes = {"steps": 48, "train_rows": ROWS, "batch_size": 20}
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, **sizes)
    for stage in range(2):
        if stage:
            recorder.next_stage(optimizer, **sizes)
        for rows in torch.cat([torch.randperm(ROWS) for _ in range(4)]).split(20):
            loss = entropy(model(inputs[rows]), labels[rows]) * (1, 5)[stage]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(loss=loss)
    stages = [StageData([(inputs, labels)]), StageData([(inputs, labels)], row_ids=range(ROWS))]
    with pytest.warns(UserWarning, match=r"^Stage 1: Training's losses are (4|5)"):
        attribute(model, Trajectory.load(tmp_path), stages, method="graddot")
