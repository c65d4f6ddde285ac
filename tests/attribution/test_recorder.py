from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.attribution import (
    AttributionError,
    CheckpointError,
    OptimizerError,
    ReplayRecorder,
    Trajectory,
    TrajectoryRecorder,
    WindowRecorder,
    checkpoint_steps,
)
from pipeline.attribution.trajectory.optimizers import read_settings
from pipeline.attribution.trajectory.weights import save_weights
from pipeline.attribution.unrolling.replay import Replay
from pipeline.attribution.unrolling.unrolled_gauss_newton import WindowMeans


def test_records_checkpoints_learning_rates_and_the_tail_mean(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 12)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, checkpoints=3, steps=12, train_rows=30)
    rates, states = [], []
    for step in range(12):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        recorder.step(epoch=(step + 1) / 6)
        rates.append(optimizer.param_groups[0]["lr"])
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        schedule.step()
    trajectory = Trajectory.load(tmp_path)
    assert [c.step for c in trajectory.checkpoints] == [4, 8, 12]
    assert [c.epoch for c in trajectory.checkpoints] == pytest.approx([4 / 6, 8 / 6, 2])
    expected = [sum(rates[:4]), sum(rates[4:8]), sum(rates[8:])]
    assert [c.lr_sum for c in trajectory.checkpoints] == pytest.approx(expected)
    (stage,) = trajectory.stages
    assert (stage.optimizer.momentum, stage.train_rows) == (0.9, 30)
    assert [group.weight_decay for group in stage.optimizer.groups] == [0.01]
    torch.testing.assert_close(trajectory.load_weights(1), states[7], atol=0, rtol=0)
    tail = trajectory.load_tail()
    for name in ("0.weight", "1.running_var"):
        torch.testing.assert_close(tail[name], torch.stack([state[name] for state in states[6:]]).mean(0))


def test_checkpoints_are_equally_spaced_and_end_with_training() -> None:
    assert checkpoint_steps(60, 6) == [10, 20, 30, 40, 50, 60]
    assert checkpoint_steps(7, 7) == [1, 2, 3, 4, 5, 6, 7]
    assert checkpoint_steps(10, 3) == [3, 7, 10]
    with pytest.raises(AttributionError, match="5 training steps"):
        checkpoint_steps(5, 6)


def two_groups(momentum: float) -> torch.optim.Optimizer:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    return torch.optim.SGD([{"params": [a], "momentum": momentum}, {"params": [b]}], lr=0.1)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.RMSprop(nn.Linear(1, 1).parameters()), "'RMSprop'"),
        (torch.optim.Adam(nn.Linear(1, 1).parameters(), amsgrad=True), "amsgrad"),
        (torch.optim.AdamW(nn.Linear(1, 1).parameters(), maximize=True), "maximises"),
        (two_groups(0.5), "differ in 'momentum'"),
        (two_groups(0.0), "no parameter of the model"),
        (torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, maximize=True), "maximises"),
    ],
    ids=["rmsprop", "amsgrad", "maximize-adamw", "groups", "other-model", "maximize"],
)
def test_optimizers_without_a_formula_are_refused(tmp_path: Path, optimizer, message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        TrajectoryRecorder(nn.Linear(1, 1), optimizer, tmp_path, steps=10, train_rows=5)


def test_more_steps_than_announced_and_changed_settings_are_errors(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, checkpoints=1, steps=2, train_rows=5, tail=0)
    recorder.step()
    assert not (tmp_path / "trajectory.json").exists()
    recorder.step()
    assert Trajectory.load(tmp_path).tail is None
    with pytest.raises(AttributionError, match="2 steps"):
        recorder.step()
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, checkpoints=1, steps=2, train_rows=5)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(OptimizerError, match="changed"):
        recorder.step()


def trained_by_a_constant_gradient(
    optimizer: torch.optim.Optimizer, schedule: object, recorder: TrajectoryRecorder, weight: nn.Parameter
) -> float:
    """How far six steps with a gradient of 1 move the weight down."""
    before = float(weight)
    for _ in range(6):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        recorder.step()
        schedule.step()  # type: ignore[attr-defined]
    return before - float(weight)


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
def test_effective_learning_rates_follow_a_cycled_momentum(kind: str, tmp_path: Path) -> None:
    """A gradient that is always 1 moves the weight by the sum of the effective rates."""
    model = nn.Linear(1, 1, bias=False).double()
    if kind == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=0.1, eps=1e-16)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=kind == "nesterov")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=7)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=6, train_rows=5, checkpoints=2)
    moved = trained_by_a_constant_gradient(optimizer, schedule, recorder, model.weight)
    applied = [checkpoint.applied for checkpoint in Trajectory.load(tmp_path).checkpoints]
    assert sum(each[0] for each in applied if each) == pytest.approx(moved, rel=1e-9)


def stepped(
    model: nn.Module, optimizer: torch.optim.Optimizer, recorder: TrajectoryRecorder, steps: int
) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        recorder.step()


@pytest.mark.parametrize("stop", [4, 5, 9])
def test_a_training_that_stops_early_is_finished(stop: int, tmp_path: Path) -> None:
    """The steps that were done count as the whole training; one that stops at a checkpoint has no second one."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=12, train_rows=8, checkpoints=3)
    stepped(model, optimizer, recorder, stop)
    with pytest.raises(CheckpointError, match=f"after {stop // 4 * 4} of 12 announced"):
        Trajectory.load(tmp_path)
    recorder.finish()
    recorder.finish()
    found = Trajectory.load(tmp_path)
    assert [c.step for c in found.checkpoints] == {4: [4], 5: [4, 5], 9: [4, 8, 9]}[stop]
    assert found.steps == stop
    assert (found.tail is None) == (stop < 7)
    assert all(c.applied for c in found.checkpoints)
    assert sum(c.lr_sum for c in found.checkpoints) == pytest.approx(0.1 * stop)
    torch.testing.assert_close(found.load_weights(-1), model.state_dict())


def test_a_recording_without_a_step_can_not_be_finished(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=12, train_rows=8)
    with pytest.raises(AttributionError, match="no step"):
        recorder.finish()


def test_a_call_after_a_micro_batch_is_noticed(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=4, train_rows=8, checkpoints=1)
    stepped(model, optimizer, recorder, 1)
    with pytest.warns(UserWarning, match="No weight changed before recorder.step\\(\\) number 2"):
        recorder.step()


class Counting(torch.optim.AdamW):
    """A subclass that changes nothing about a step."""


class Accelerated(torch.optim.Optimizer):
    """As Accelerate's wrapper: torch's optimizer is an attribute."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


class Lookahead(torch.optim.AdamW):
    def step(self, closure=None):  # type: ignore[override]
        return super().step(closure)


def test_wrapped_and_derived_optimizers_are_those_of_torch(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    for place, optimizer in enumerate(
        [Counting(model.parameters()), Accelerated(Counting(model.parameters()))]
    ):
        recorder = TrajectoryRecorder(
            model, optimizer, tmp_path / str(place), steps=1, train_rows=8, checkpoints=1
        )
        stepped(model, getattr(optimizer, "optimizer", optimizer), recorder, 1)
        (stage,) = Trajectory.load(tmp_path / str(place)).stages
        assert (stage.optimizer.kind, stage.optimizer.beta2) == ("adamw", 0.999)
    with pytest.raises(OptimizerError, match="Lookahead"):
        TrajectoryRecorder(model, Lookahead(model.parameters()), tmp_path, steps=1, train_rows=8)


def test_a_derived_optimizer_is_taken_before_torchs_own_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first optimizer of a class gets a `step` that torch has wrapped for profiles."""
    monkeypatch.setattr(torch.optim.Adam, "step", inspect.unwrap(torch.optim.Adam.step))
    model = nn.Linear(3, 2)

    class New(torch.optim.AdamW):
        """A subclass that changes nothing about a step."""

    optimizer = New(model.parameters())
    assert "step" in vars(New)
    assert read_settings(model, optimizer).kind == "adamw"


def test_wrapped_models_are_recorded_under_plain_names(tmp_path: Path) -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = torch.compile(nn.Linear(3, 4), backend="eager"), nn.Linear(4, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(inputs))

    wrapped = torch.compile(nn.DataParallel(Part()), backend="eager")
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(wrapped, optimizer, tmp_path, steps=2, train_rows=8, checkpoints=1)
    stepped(wrapped, optimizer, recorder, 2)
    found, names = Trajectory.load(tmp_path), {"inner.weight", "inner.bias", "head.weight", "head.bias"}
    assert set(found.load_weights(0)) == names
    assert set(found.load_second_moments(0)) == names
    assert set(found.stages[0].optimizer.groups[0].parameters or ()) == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_rows": 0}, "train_rows is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"tail": 1.5}, "tail is 1.5"),
        ({"tail": -0.1}, "tail is -0.1"),
    ],
)
@pytest.mark.parametrize(
    "recorder", [TrajectoryRecorder, ReplayRecorder, partial(WindowRecorder, batch_size=2)]
)
def test_a_training_that_can_not_be_is_refused_before_it_begins(
    tmp_path: Path, recorder, change: dict[str, float], message: str
) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(AttributionError, match=message):
        recorder(model, optimizer, tmp_path, **({"steps": 6, "train_rows": 5} | change))


@pytest.mark.parametrize(
    ("recorder", "load"),
    [
        (TrajectoryRecorder, Trajectory.load),
        (ReplayRecorder, Replay.load),
        (partial(WindowRecorder, batch_size=2), WindowMeans.load),
    ],
    ids=["trajectory", "replay", "pieces"],
)
def test_recording_again_ends_what_was_there(tmp_path: Path, recorder, load) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def record(steps: int) -> None:
        recording = recorder(model, optimizer, tmp_path, steps=6, train_rows=5)
        for _ in range(steps):
            recording.step(*([[0, 1]] if recorder is ReplayRecorder else []))

    record(6)
    load(tmp_path)
    record(4)
    with pytest.raises(CheckpointError, match="There is no"):
        load(tmp_path)


def test_a_restored_recorder_that_was_done_has_its_trajectory_again(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=6, train_rows=5)
    for _ in range(6):
        recorder.step()
    save_weights(
        tmp_path / "tail.safetensors", {"weight": torch.ones(1, 2)}
    )  # with other BatchNorm statistics, say
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    restored = TrajectoryRecorder(model, optimizer, tmp_path, steps=6, train_rows=5)
    restored.restore(recorder.state_tensors())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_keeps_its_bias_corrected_second_moments(tmp_path: Path, decoupled: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.0)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, checkpoints=2, steps=6, train_rows=4)
    squares, moments = torch.zeros(2, 3), []
    for step in range(6):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        squares = 0.9 * squares + 0.1 * model.weight.grad.square()
        moments.append(squares / (1 - 0.9 ** (step + 1)))
        optimizer.step()
        recorder.step()
    trajectory = Trajectory.load(tmp_path)
    assert trajectory.optimizer.kind == ("adamw" if decoupled else "adam")
    assert (trajectory.optimizer.momentum, trajectory.optimizer.eps) == (0.8, 1e-3)
    for place, step in enumerate((2, 5)):
        torch.testing.assert_close(trajectory.load_second_moments(place)["weight"], moments[step])
    # All learning rates together, since Adam's averages are corrected.
    assert sum(sum(c.applied) for c in trajectory.checkpoints) == pytest.approx(0.6)
    (tmp_path / "6.optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="step 6 has no second moments"):
        trajectory.load_second_moments(1)


def applied_by_hand(rates: list[float], ends: list[int], momentum: float, dampening: float) -> list[float]:
    """Every gradient's share in every later step."""
    sums, first = [], 0
    for end in ends:
        total = 0.0
        for entered in range(first, end):
            share = 1.0 if entered == 0 else 1 - dampening
            for step in range(entered, len(rates)):
                total += rates[step] * share * momentum ** (step - entered)
        sums.append(total)
        first = end
    return sums


@pytest.mark.parametrize("dampening", [0.0, 0.4])
@pytest.mark.parametrize("interrupted", [False, True])
def test_momentum_enters_by_exact_sums_also_after_an_interruption(
    tmp_path: Path, dampening: float, interrupted: bool
) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, dampening=dampening)
    make = {"checkpoints": 3, "steps": 9, "train_rows": 5}
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, **make)
    rates = [0.1 / (step + 1) for step in range(9)]
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        recorder.step()
        if interrupted and step == 4:
            state = recorder.state_tensors()
            recorder = TrajectoryRecorder(model, optimizer, tmp_path, **make)
            recorder.restore(state)
    found = [c.applied[0] for c in Trajectory.load(tmp_path).checkpoints]
    assert found == pytest.approx(applied_by_hand(rates, [3, 6, 9], 0.9, dampening))


def test_stages_go_on_counting_and_name_what_they_train(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    first = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, first, tmp_path, checkpoints=2, steps=4, train_rows=5, name="pre")
    with pytest.raises(AttributionError, match="0 of the 4 steps"):
        recorder.next_stage(first, steps=3, train_rows=7)
    for _ in range(4):
        recorder.step()
    assert len(Trajectory.load(tmp_path).stages) == 1
    head = torch.optim.SGD(model[1].parameters(), lr=0.2, weight_decay=0.1)
    recorder.next_stage(head, steps=3, train_rows=7, checkpoints=3, name="fine")
    with pytest.raises(CheckpointError, match="no trajectory"):
        Trajectory.load(tmp_path)
    for _ in range(3):
        recorder.step()
    trajectory = Trajectory.load(tmp_path)
    assert [c.step for c in trajectory.checkpoints] == [2, 4, 5, 6, 7]
    assert [(stage.name, stage.train_rows) for stage in trajectory.stages] == [("pre", 5), ("fine", 7)]
    assert trajectory.optimizer.groups[0].parameters == ("1.weight", "1.bias")
    cuts = trajectory.segments((2, 1))
    assert [(cut.stage, cut.checkpoints) for cut in cuts] == [(0, (0,)), (0, (1,)), (1, (2, 3, 4))]
    assert [cut.lr_sum for cut in cuts] == pytest.approx([0.2, 0.2, 0.6])
    with pytest.raises(AttributionError, match="2 checkpoints of stage 0 can't be cut into 3"):
        trajectory.segments(3)
    with pytest.raises(AttributionError, match="1 numbers of segments for 2 stages"):
        trajectory.segments([1])
