from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.attribution import CheckpointError, RunningMean, load_weights, restore_weights, save_weights


def tied_model() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5))
    model[1].weight = model[0].weight
    return model


def test_tied_tensors_are_saved_once_and_restored_for_all(tmp_path: Path) -> None:
    model, other = tied_model(), tied_model()
    save_weights(tmp_path / "w.safetensors", model.state_dict())
    state = load_weights(tmp_path / "w.safetensors")
    assert "1.weight" not in state
    assert "2.running_mean" in state
    restore_weights(other, state)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    assert other[1].weight is other[0].weight


def test_tensors_that_share_memory_otherwise_are_saved_in_full(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    save_weights(tmp_path / "w.safetensors", {"all": base, "part": base[2:4], "turned": base.view(2, 3).T})
    state = load_weights(tmp_path / "w.safetensors")
    assert state["part"].tolist() == [2, 3]
    assert torch.equal(state["turned"], base.view(2, 3).T)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(2)})

    def fail(_tensors: object, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("pipeline.attribution.trajectory.weights.write_tensors", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(path, {"a": torch.zeros(2)})
    assert load_file(path)["a"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("0.bias"), "no '0.bias'"),
        (lambda state: state.update({"0.weight": torch.zeros(2, 9)}), "'0.weight' has shape"),
        (lambda state: state.update({"9.weight": torch.zeros(1)}), "'9.weight'"),
    ],
    ids=["missing", "shape", "unknown"],
)
def test_a_checkpoint_of_another_model_is_named(change, message: str) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = model[0].weight.clone()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        restore_weights(model, state, "run/10.safetensors")
    assert torch.equal(model[0].weight, before)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        load_weights(tmp_path / "none.safetensors")
    path = tmp_path / "cut.safetensors"
    save_file({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
        load_weights(path)


def test_running_mean_is_exact_over_many_float32_states() -> None:
    torch.manual_seed(0)
    states = [{"w": torch.randn(50) * 1e3 + 1e6, "steps": torch.tensor(k)} for k in range(1000)]
    running = RunningMean()
    for state in states:
        running.add(state)
    mean = running.mean()
    expected = torch.stack([state["w"].double() for state in states]).mean(0).float()
    assert torch.equal(mean["w"], expected)
    assert mean["steps"] == 999


def test_running_mean_does_not_follow_later_changes_and_resumes_exactly() -> None:
    running, weights = RunningMean(), torch.ones(3, dtype=torch.float64)
    running.add({"w": weights})
    weights += 1
    resumed = RunningMean.from_tensors(running.to_tensors())
    for mean in (running, resumed):
        mean.add({"w": weights})
        assert mean.mean()["w"].tolist() == [1.5] * 3
        assert mean.mean()["w"].dtype == torch.float64


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(CheckpointError):
        RunningMean().mean()
