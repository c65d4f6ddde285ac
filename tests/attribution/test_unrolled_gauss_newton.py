"""Smoothed unrolling against the same recursion with dense Gauss–Newton matrices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attribution.recorded_run import OPTIMIZERS, ROWS, Run, mlp, softmax_regression
from attribution.test_gauss_newton import dense_matrix
from pipeline.attribution import (
    AttributionError,
    Batch,
    CheckpointError,
    OptimizerError,
    get_objective,
    load_weights,
)
from pipeline.attribution.rows.derivatives import row_source
from pipeline.attribution.unrolling.unrolled import UnrolledHarm
from pipeline.attribution.unrolling.unrolled_gauss_newton import (
    WindowMeans,
    random_batches,
    unrolled_gauss_newton_harm,
)
from pipeline.attribution.unrolling.window_recorder import WindowRecorder

WINDOWS = 3


class PieceRun(Run):
    def recorder(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path
    ) -> Callable[[Tensor], None]:
        found = WindowRecorder(
            model, optimizer, directory, steps=self.steps, train_rows=ROWS, batch_size=self.batch,
            windows=WINDOWS, tail=self.tail,
        )  # fmt: skip
        return lambda _: found.step()


def smoothed(run: Run, directory: Path) -> UnrolledHarm:
    run.train(directory)
    return unrolled_gauss_newton_harm(
        run.model(),
        WindowMeans.load(directory),
        get_objective("cross_entropy"),
        row_source(run.pairs),
        run.query,
        seed=4,
    )


def losses(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs), labels, reduction="none")


def flat_gradient(model: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def dense_harm(run: Run, directory: Path) -> Tensor:
    model, names = run.model(), [name for name, _ in run.model().named_parameters()]
    model.load_state_dict(load_weights(directory / "tail.safetensors"))
    query = sum(flat_gradient(model, losses(model, x, y).sum()) for x, y in run.query) / 9
    tail = round(run.tail * run.steps)
    batches = random_batches(ROWS, run.batch, 4)
    weights, slot = torch.zeros_like(query), torch.zeros_like(query)
    harm = torch.zeros(ROWS, dtype=torch.float64)
    recorded = [load_weights(directory / f"piece-{window}.safetensors") for window in range(WINDOWS)]
    for window in reversed(range(WINDOWS)):
        tensors = recorded[window]
        model.load_state_dict(
            {name.removeprefix("model/"): t for name, t in tensors.items() if "model/" in name}
        )
        summed = torch.zeros_like(query)
        for step in reversed(range(run.steps * window // WINDOWS, run.steps * (window + 1) // WINDOWS)):
            decrease = 1.0 - 0.8 * step / run.steps
            if step >= run.steps - tail:
                weights = weights + query / tail
            if run.optimizer == "momentum":  # lr .1, β .9, weight decay .02
                entered = slot - 0.1 * decrease * weights
                slot, kept = 0.9 * entered, weights + 0.02 * entered
            else:  # AdamW: lr .05, betas .9 and .999, eps 1e-3, decoupled decay .1
                moments = [
                    torch.cat([each[f"exp_avg_sq/{name}"].flatten() for name in names]) for each in recorded
                ]
                moment = torch.maximum(moments[window], 0.01 * torch.stack(moments).mean(0))
                scale = 1.0 / ((moment / (1 - 0.999 ** (step + 1))).sqrt() + 1e-3)
                mean = slot - 0.05 * decrease / (1 - 0.9 ** (step + 1)) * scale * weights
                entered, slot, kept = 0.1 * mean, 0.9 * mean, weights * (1 - 0.05 * decrease * 0.1)
            rows = next(batches)
            batch = Batch(run.inputs[rows], run.labels[rows], rows)
            weights = kept + dense_matrix(model, batch, names) @ entered / len(rows)
            summed += entered
        for row in range(ROWS):
            own = flat_gradient(
                model, losses(model, run.inputs[row : row + 1], run.labels[row : row + 1]).sum()
            )
            harm[row] += (own @ summed).item() / ROWS
    return harm


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("build", [softmax_regression, mlp])
def test_agrees_with_dense_gauss_newton_unrolling(tmp_path: Path, optimizer: str, build) -> None:
    run = PieceRun(build, optimizer)
    found = smoothed(run, tmp_path)
    expected = dense_harm(run, tmp_path)
    assert (found.harm - expected).abs().max() < 1e-9 * expected.abs().max()
    assert not found.chaotic


class LateWord(PieceRun):
    """A feature that no row has before the last third of the steps: Adam's second moments are 0 until then."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.inputs[:, 0] = 0.0
        self.inputs[:4, 0] = 1.0
        early = torch.arange(4, ROWS)
        self.order[: 2 * self.steps // 3 + 1] = [early[:6]] * (2 * self.steps // 3 + 1)
        self.order[-1] = torch.arange(6)


def test_a_weight_without_gradients_so_far_does_not_move_1_over_epsilon_fold(tmp_path: Path) -> None:
    OPTIMIZERS["adam of words"] = lambda p: torch.optim.AdamW(p, lr=0.05)
    try:
        run = LateWord(softmax_regression, "adam of words")
        harm = smoothed(run, tmp_path).harm.abs()
    finally:
        del OPTIMIZERS["adam of words"]
    moments = [load_weights(tmp_path / f"piece-{window}.safetensors") for window in range(WINDOWS)]
    assert not moments[0]["exp_avg_sq/0.weight"][:, 0].any()
    assert moments[-1]["exp_avg_sq/0.weight"][:, 0].any()
    assert harm[:4].max() < 30 * harm[4:].max()


def test_window_means_and_the_tail_are_those_of_the_iterates(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    recorder = WindowRecorder(model, optimizer, tmp_path, steps=6, train_rows=9, batch_size=2, windows=2)
    for step in range(6):
        nn.init.constant_(model.weight, step)
        recorder.step()
    means = [
        load_weights(tmp_path / f"piece-{window}.safetensors")["model/weight"].item() for window in range(2)
    ]
    assert means == [1.0, 4.0]
    assert load_weights(tmp_path / "tail.safetensors")["weight"].item() == 4.0
    assert WindowMeans.load(tmp_path).starts == [0, 3]


def test_random_batches_visit_every_row_before_any_again() -> None:
    batches = random_batches(9, 3, 0)
    epochs = [torch.cat([next(batches) for _ in range(3)]).sort().values for _ in range(2)]
    assert all(epoch.tolist() == list(range(9)) for epoch in epochs)


def test_wrong_recordings_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no recording"):
        WindowMeans.load(tmp_path)
    model = nn.Linear(1, 1)
    with pytest.raises(OptimizerError, match="'Adagrad'"):
        WindowRecorder(
            model, torch.optim.Adagrad(model.parameters()), tmp_path, steps=6, train_rows=9, batch_size=2
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(AttributionError, match="batch_size is 0"):
        WindowRecorder(model, optimizer, tmp_path, steps=6, train_rows=9, batch_size=0)
