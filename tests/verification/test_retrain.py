from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.errors import WinnowError
from pipeline.training.batches import Selection
from pipeline.training.setup import averaged_model, set_up
from pipeline.verification.retrain import (
    TailAverage,
    retrain,
    retraining_path,
    row_scores,
    train_and_measure,
)
from pipeline.workers.worker import run_data, run_model

from .small_run import digits_config, open_context, write_rows


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    open_context(path, digits_config())
    write_rows(path, ["remove"] * 300 + ["keep"] * 900, pa.nulls(1200, pa.int64()))
    return path


def test_a_retraining_is_that_of_a_plain_loop_over_the_kept_rows(run_path: Path) -> None:
    """The oracle trains by hand: same first weights and order of rows, 60 steps on 900 rows of the 1,200."""
    kept = np.arange(1200) >= 300
    found = train_and_measure(run_path, Selection(keep=kept), seed=7)

    data = run_data(run_path)
    rows, holdout = data.load_role("train").select(slice(300, None)), data.load_role("holdout")
    torch.manual_seed(7)
    model = run_model(run_path, 7)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    iterates: list[torch.Tensor] = []
    epoch = 0
    while len(iterates) < 3 * 1200 // 60:
        order = torch.randperm(900, generator=torch.Generator().manual_seed(7 * 1_000_003 + epoch))
        for batch in order.split(60)[: 60 - len(iterates)]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(rows.inputs[batch]), rows.labels[batch]).backward()
            optimizer.step()
            iterates.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        epoch += 1

    def logs() -> torch.Tensor:
        with torch.no_grad():
            return model(holdout.inputs).log_softmax(1)

    def right() -> torch.Tensor:
        return (logs().argmax(1) == holdout.labels).float()

    assert len(iterates) == 60
    assert (found["final_score"] == right()).float().mean() > 0.99
    nn.utils.vector_to_parameters(torch.stack(iterates[-15:]).mean(0), model.parameters())
    losses = nn.functional.nll_loss(logs(), holdout.labels, reduction="none")
    assert torch.allclose(found["tail_losses"], losses, rtol=1e-3, atol=1e-5)
    assert torch.allclose(found["tail_log_probability"].float(), logs(), rtol=2e-3, atol=1e-3)
    assert (found["tail_top"] == logs().argmax(1)).float().mean() > 0.99
    assert (found["tail_score"] == right()).float().mean() > 0.99
    assert len(found["validation_losses"]) == len(found["validation_top"]) == len(found["validation_score"])
    assert torch.isclose(found["validation_loss"], found["validation_losses"].double().mean())
    assert found["rows"] == 900


def test_a_retraining_is_bit_identical_when_repeated(run_path: Path) -> None:
    retrain(run_path, "random_of_removed", 3)
    path = retraining_path(run_path, "random_of_removed", 3)
    first = load_file(path)
    path.unlink()
    torch.manual_seed(99)
    retrain(run_path, "random_of_removed", 3)
    second = load_file(path)
    assert all(torch.equal(first[name], second[name]) for name in first if name != "seconds")


def test_a_retraining_that_is_on_disk_is_not_run_again(run_path: Path) -> None:
    path = retraining_path(run_path, "removed", 5)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"done before")
    retrain(run_path, "removed", 5)
    assert path.read_bytes() == b"done before"


def test_a_retraining_that_diverges_says_which(tmp_path: Path) -> None:
    open_context(tmp_path, digits_config(**{"training.learning_rate": 1e30}))
    write_rows(tmp_path, ["remove"] * 10 + ["keep"] * 1190, pa.nulls(1200, pa.int64()))
    with pytest.raises(WinnowError, match=r"(?s)retraining removed, seed 4: .*learning_rate"):
        retrain(tmp_path, "removed", 4)
    assert not retraining_path(tmp_path, "removed", 4).exists()


def test_row_scores_of_a_regression_average_to_r2() -> None:
    random = torch.Generator().manual_seed(0)
    target = torch.randn(40, generator=random)
    prediction = target + 0.5 * torch.randn(40, generator=random)
    scores = row_scores({"prediction": prediction, "loss": (prediction - target).square()}, target)
    expected = 1 - ((prediction - target) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    assert scores.mean().item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_tail_average_begins_at_its_first_step() -> None:
    model = nn.Linear(1, 1, bias=False)
    tail = TailAverage(model, first=3)
    for step in range(1, 6):
        nn.init.constant_(model.weight, step)
        tail.after_step(step)
    assert tail.mean.mean()["weight"].item() == 4
    other = TailAverage(model, first=3)
    other.restore(tail.state_tensors())
    assert other.mean.mean()["weight"].item() == 4


class Normalised(nn.Module):
    """BatchNorm behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 5)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(image.flatten(1) / 255))


def test_an_averaged_model_has_batchnorm_statistics_of_its_own(run_path: Path) -> None:
    kept = np.arange(1200) >= 300
    setup = dataclasses.replace(set_up(run_path, Selection(keep=kept), 0), model=Normalised())
    weights = {name: torch.randn_like(tensor.float()) for name, tensor in setup.model.state_dict().items()}
    averaged = averaged_model(setup, weights)
    assert isinstance(averaged, Normalised)
    images = run_data(run_path).load_role("train").inputs[300:]
    expected = nn.functional.linear(images.flatten(1) / 255, weights["first.weight"], weights["first.bias"])
    assert torch.allclose(averaged.norm.running_mean, expected.mean(0), atol=1e-4)
    assert torch.equal(averaged.norm.weight, weights["norm.weight"])
    assert not torch.equal(setup.model.norm.weight, averaged.norm.weight)
