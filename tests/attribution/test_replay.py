"""Replay: recorded loops as users write them repeat bit for bit, and changed ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attribution.recorded_run import ROWS, Run, mlp
from pipeline.attribution import AttributionError, CheckpointError, OptimizerError
from pipeline.attribution.objectives import get_objective
from pipeline.attribution.rows.derivatives import row_source
from pipeline.attribution.unrolling.replay import Replay, ReplayError
from pipeline.attribution.unrolling.replay_recorder import ReplayRecorder, state_path

ENTROPY = get_objective("cross_entropy")


def steps_of(run: Run, directory: Path, pairs: list[tuple[Tensor, Tensor]] | None = None) -> list[int]:
    pieces = Replay.load(directory).pieces_backwards(run.model(), ENTROPY, row_source(pairs or run.pairs))
    return [step.step for piece in pieces for step in reversed(piece)]


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_pieces_of_root_t_steps_repeat_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    run = Run(mlp, optimizer)
    run.train(tmp_path)
    assert Replay.load(tmp_path).stored == [0, 4, 8, 12, 13]
    assert steps_of(run, tmp_path) == list(range(12, -1, -1))


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_plain_loop_in_single_precision_repeats(tmp_path: Path, optimizer: str) -> None:
    """``nn.CrossEntropyLoss`` as everybody writes it, a shuffling loader and a last, smaller batch."""
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(50, 8), torch.randint(3, (50,)), torch.arange(50))
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = model.parameters()
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3} if optimizer == "momentum" else {"lr": 0.01}
    kind = torch.optim.SGD if optimizer == "momentum" else torch.optim.AdamW
    trainer, loss_function = kind(parameters, **settings), nn.CrossEntropyLoss()
    recorder = ReplayRecorder(model, trainer, tmp_path, steps=12, train_rows=50)
    for _ in range(3):
        for inputs, labels, rows in loader:
            trainer.zero_grad()
            loss_function(model(inputs), labels).backward()
            trainer.step()
            recorder.step(rows)
    model.load_state_dict(start)
    source = row_source([(data.tensors[0], data.tensors[1])])
    pieces = list(Replay.load(tmp_path).pieces_backwards(model, ENTROPY, source))
    assert [len(piece) for piece in pieces] == [4, 4, 4]


def test_other_data_are_refused(tmp_path: Path) -> None:
    run = Run(mlp, "momentum")
    run.train(tmp_path)
    inputs = run.inputs.clone()
    inputs[run.order[12][0], 0] += 1e-12
    with pytest.raises(ReplayError, match="Steps 13 to 13 don't repeat bit for bit"):
        steps_of(run, tmp_path, [(inputs, run.labels)])


def test_a_clipped_gradient_is_refused(tmp_path: Path) -> None:
    run = Run(mlp, "momentum")
    model = run.model()
    trainer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = ReplayRecorder(model, trainer, tmp_path, steps=4, train_rows=ROWS)
    for rows in run.order[:4]:
        trainer.zero_grad()
        nn.functional.cross_entropy(model(run.inputs[rows]), run.labels[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        trainer.step()
        recorder.step(rows)
    with pytest.raises(ReplayError, match="clipping"):
        steps_of(run, tmp_path)


def test_a_divisor_of_ones_own_is_replayed(tmp_path: Path) -> None:
    run = Run(mlp, "momentum")
    model = run.model()
    trainer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = ReplayRecorder(model, trainer, tmp_path, steps=4, train_rows=ROWS)
    for rows in run.order[:4]:
        trainer.zero_grad()
        (
            nn.functional.cross_entropy(model(run.inputs[rows]), run.labels[rows], reduction="none").sum() / 9
        ).backward()
        trainer.step()
        recorder.step(rows, divisor=9)
    assert steps_of(run, tmp_path) == [3, 2, 1, 0]


def test_fewer_states_are_stored_where_the_budget_asks_for_it(tmp_path: Path) -> None:
    run = Run(mlp, "momentum")
    model = run.model()
    trainer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    weights = 8 * sum(p.numel() for p in model.parameters())
    recorder = ReplayRecorder(model, trainer, tmp_path, steps=16, train_rows=ROWS, byte_budget=6 * weights)
    for _ in range(16):
        recorder.step(torch.tensor([0]))
    assert Replay.load(tmp_path).stored == [0, 6, 12, 16]
    with pytest.raises(AttributionError, match="byte_budget of at least"):
        ReplayRecorder(model, trainer, tmp_path, steps=16, train_rows=ROWS, byte_budget=5 * weights)


def test_what_cannot_be_unrolled_is_refused_before_training(tmp_path: Path) -> None:
    model = mlp()
    options = {"steps": 4, "train_rows": ROWS}
    for trainer, message in [
        (torch.optim.RMSprop(model.parameters()), "'RMSprop'"),
        (torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=0.1), "dampening"),
        (torch.optim.Adam(model.parameters(), amsgrad=True), "amsgrad"),
    ]:
        with pytest.raises(OptimizerError, match=message):
            ReplayRecorder(model, trainer, tmp_path, **options)
    normed = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    trainer = torch.optim.SGD(normed.parameters(), lr=0.1)
    with pytest.raises(AttributionError, match="'1' is BatchNorm in training mode"):
        ReplayRecorder(normed, trainer, tmp_path, **options)


def test_wrong_steps_are_errors(tmp_path: Path) -> None:
    run = Run(mlp, "momentum")
    model = run.model()
    trainer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = ReplayRecorder(model, trainer, tmp_path, steps=1, train_rows=ROWS)
    with pytest.raises(AttributionError, match="rows outside of 0 to 19"):
        recorder.step(torch.tensor([ROWS]))
    trainer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(OptimizerError, match="changed"):
        recorder.step(torch.tensor([0]))
    trainer.param_groups[0]["weight_decay"] = 0
    recorder.step(torch.tensor([0]))
    with pytest.raises(AttributionError, match="1 steps"):
        recorder.step(torch.tensor([0]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.tensor([True, False]), "by torch.bool"),
        ([0.0, 1.0], "by torch.float32"),
        ([], "names no rows"),
        (torch.tensor(3), "names no rows"),
        ([-1, 2], "outside of 0 to 19"),
    ],
)
def test_rows_that_are_no_row_numbers_are_refused(tmp_path: Path, rows, message: str) -> None:
    model = mlp()
    recorder = ReplayRecorder(
        model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path, steps=1, train_rows=ROWS
    )
    with pytest.raises(AttributionError, match=message):
        recorder.step(rows)


def test_missing_and_damaged_recordings_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no recording"):
        Replay.load(tmp_path)
    run = Run(mlp, "momentum")
    run.train(tmp_path)
    state_path(tmp_path, 4).unlink()
    with pytest.raises(CheckpointError, match="state-4"):
        Replay.load(tmp_path)
    record = json.loads((tmp_path / "replay.json").read_text())
    del record["steps"]
    (tmp_path / "replay.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="damaged"):
        Replay.load(tmp_path)
