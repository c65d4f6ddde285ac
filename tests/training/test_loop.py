"""The loop against a training written out by hand, and its resumption bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution.objectives import get_objective
from pipeline.data.encoded import EncodedData, Rows
from pipeline.errors import InputError
from pipeline.training.batches import Selection, TrainingRows
from pipeline.training.loop import train
from pipeline.training.main_run import CheckpointObserver
from pipeline.training.optimizer import make_optimizer
from pipeline.training.recipe import Recipe
from pipeline.training.setup import Setup

OBJECTIVE = get_objective("cross_entropy")
RECIPE = Recipe(0.05, 0.9, 1e-3, "cosine", 128, 25, 7)


class Interrupted(Exception):
    pass


class StopAt:
    """An observer that interrupts training as a kill would."""

    def __init__(self, step: int):
        self.step = step

    def after_step(self, step: int) -> None:
        if step == self.step:
            raise Interrupted

    def state_tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        pass


@pytest.fixture
def rows(detected_run: Path) -> TrainingRows:
    return TrainingRows(EncodedData.open(detected_run), Selection(), 2**30, 1)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image.float() / 255)


def fresh(recipe: Recipe = RECIPE) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Small()
    return model, make_optimizer(model, recipe)


def made(rows: TrainingRows, recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer) -> Setup:
    return Setup(rows._data, model, optimizer, rows, OBJECTIVE, recipe, torch.device("cpu"), OBJECTIVE)


def test_steps_follow_the_update_rule_written_out(rows: TrainingRows) -> None:
    model, optimizer = fresh()
    train(made(rows, RECIPE, model, optimizer), {}, stop_after=12)

    other, _ = fresh()
    other.train()
    torch.manual_seed(RECIPE.seed)
    velocity = [torch.zeros_like(p) for p in other.parameters()]
    batches = [b for epoch in range(2) for b in rows.batches(128, RECIPE.seed, epoch)]
    for step, batch in enumerate(batches[:12]):
        loss = nn.functional.cross_entropy(other(batch.inputs), batch.labels, reduction="sum") / 128
        gradients = torch.autograd.grad(loss, list(other.parameters()))
        with torch.no_grad():
            for parameter, gradient, v in zip(other.parameters(), gradients, velocity):
                v.mul_(0.9).add_(gradient + 1e-3 * parameter)
                parameter -= RECIPE.learning_rate_at(step) * v
    for one, two in zip(model.parameters(), other.parameters()):
        assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_an_interrupted_training_goes_on_bit_for_bit(kind: str, rows: TrainingRows, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimizer=kind, learning_rate=0.05 if kind == "sgd" else 0.002)

    def run(directory: Path, interrupt: int | None) -> nn.Module:
        model, optimizer = fresh(recipe)
        setup = made(rows, recipe, model, optimizer)
        observer = CheckpointObserver(setup, directory, 5, RECIPE.steps, 0.5)
        observers = {"checkpoints": observer}
        if interrupt is not None:
            observers["stop"] = StopAt(interrupt)  # type: ignore[assignment]
        state = (directory / "state.safetensors", {5, 10, 15, 20})
        train(setup, observers, state=state)
        return model

    straight = run(tmp_path / "a", None)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", 18)
    resumed = run(tmp_path / "b", None)
    for one, two in zip(straight.parameters(), resumed.parameters()):
        assert torch.equal(one, two)
    names = [p.name for p in sorted((tmp_path / "a").iterdir())]
    assert "25.safetensors" in names
    assert "25.optimizer.safetensors" in names
    assert "tail.safetensors" in names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_steps_of_adam_follow_the_update_rule_written_out(kind: str, rows: TrainingRows) -> None:
    recipe = replace(RECIPE, optimizer=kind, learning_rate=0.01, weight_decay=0.1, beta2=0.98)
    model, optimizer = fresh(recipe)
    train(made(rows, recipe, model, optimizer), {}, stop_after=7)

    other, _ = fresh(recipe)
    other.train()
    torch.manual_seed(recipe.seed)
    first, second = ([torch.zeros_like(p) for p in other.parameters()] for _ in range(2))
    for step, batch in enumerate(list(rows.batches(128, recipe.seed, 0))[:7]):
        rate = recipe.learning_rate_at(step)
        loss = nn.functional.cross_entropy(other(batch.inputs), batch.labels, reduction="sum") / 128
        gradients = torch.autograd.grad(loss, list(other.parameters()))
        with torch.no_grad():
            for parameter, gradient, m, v in zip(other.parameters(), gradients, first, second):
                if kind == "adam":
                    gradient = gradient + 0.1 * parameter
                else:
                    parameter *= 1 - rate * 0.1
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.98).add_(0.02 * gradient**2)
                steps = step + 1
                parameter -= rate * (m / (1 - 0.9**steps)) / ((v / (1 - 0.98**steps)).sqrt() + 1e-8)
    for one, two in zip(model.parameters(), other.parameters()):
        assert torch.allclose(one, two, atol=1e-5)


def test_row_weights_scale_the_losses_and_not_the_batch(rows: TrainingRows) -> None:
    def weighted(batch: Rows, value: float) -> Rows:
        return Rows(batch.inputs, batch.labels, batch.row_ids, torch.full((len(batch),), value))

    class Constant(TrainingRows):
        def __init__(self, value: float):
            self.count, self.value, self._data = rows.count, value, rows._data

        def batches(self, batch_size: int, seed: int, epoch: int, skip: int = 0):  # type: ignore[no-untyped-def]
            return (weighted(b, self.value) for b in rows.batches(batch_size, seed, epoch, skip))

    plain = Recipe(0.05, 0.0, 0.0, "constant", 128, 10, 7)
    doubled = Recipe(0.1, 0.0, 0.0, "constant", 128, 10, 7)
    one, two = fresh(plain), fresh(doubled)
    train(made(Constant(2.0), plain, *one), {})
    train(made(rows, doubled, *two), {})
    for a, b in zip(one[0].parameters(), two[0].parameters()):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_loss_that_becomes_nan_stops_with_the_epoch_and_a_hint(rows: TrainingRows) -> None:
    wild = Recipe(1e38, 0.9, 0.0, "constant", 128, 60, 0)
    model, optimizer = fresh(wild)
    with pytest.raises(InputError, match=r"the loss became \S+ in epoch") as error:
        train(made(rows, wild, model, optimizer), {}, after_epoch=lambda epoch: None)
    assert "learning_rate" in str(error.value)
