"""An audit of checkpoints that a user recorded in a training loop of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from digits_run import digits_config, run_until
from own_model import of_images, with_batchnorm
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline.attribution import Trajectory, TrajectoryRecorder, attribute
from pipeline.config import AuditConfig
from pipeline.detection.signals.evidence import read_score
from pipeline.errors import InputError
from pipeline.runs.directory import RunDirectory
from pipeline.training.dynamics import read_epoch
from pipeline.training.main_run import early_trajectory, main_directory, whole_trajectory
from pipeline.workers.worker import run_data

EPOCHS, BATCH = 4, 60


def read(role: str) -> tuple[torch.Tensor, torch.Tensor]:
    table = pq.read_table(f"data_samples/digits/{role}")
    images = np.stack(table["image"].to_numpy()).reshape(-1, 1, 8, 8)
    return torch.from_numpy(images), torch.from_numpy(table["label"].to_numpy())


def record(
    folder: Path,
    kind: type[torch.optim.Optimizer],
    rate: float,
    checkpoints: int = 4,
    build: Callable[[], nn.Module] = lambda: of_images(16),
    factor: float = 1.0,
) -> None:
    """Ten lines of anybody's."""
    torch.manual_seed(3)
    images, labels = read("train")
    model = build()
    optimizer = kind(model.parameters(), lr=rate)
    steps = EPOCHS * len(labels) // BATCH
    recorder = TrajectoryRecorder(
        model,
        optimizer,
        folder,
        steps=steps,
        train_rows=len(labels),
        batch_size=BATCH,
        checkpoints=checkpoints,
    )
    for step in range(steps):
        rows = torch.randint(len(labels), (BATCH,))
        optimizer.zero_grad()
        loss = factor * cross_entropy(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        recorder.step(epoch=(step + 1) * BATCH / len(labels), loss=loss)


@pytest.fixture(autouse=True)
def _workers_find_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "trajectory"
    record(path, torch.optim.SGD, 0.1)
    return path


def recorded_config(folder: Path, **changes: object) -> AuditConfig:
    given = {
        "model__name": "custom",
        "model__target": "own_model:of_images",
        "model__kwargs": {"width": 16},
        "training__trajectory": str(folder),
        "training__epochs": EPOCHS,
        "detection__halves": False,
        "detection__backdoors": False,
        "verification__seeds": 0,
        "attribution__fisher": "exact",
    }
    return digits_config(**(given | changes))


def test_recorded_checkpoints_are_audited_and_their_folder_is_only_read(folder: Path, tmp_path: Path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    run = tmp_path / "run"
    run_until(recorded_config(folder), run, "detect")
    facts = RunDirectory(run).facts("train")
    assert (facts["checkpoints"], facts["trainings"]) == (4, 0)
    assert RunDirectory(run).facts("attribute")["misfits"] == []
    assert before == {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}

    images, labels = read("train")
    expected = attribute(
        of_images(16), Trajectory.load(folder), [(images, labels)], [read("validation")], fisher="exact"
    )
    assert expected.harm is not None
    alpha = RunDirectory(run).facts("factors")["alpha"]
    for name, wanted in (
        ("self_influence", expected.self_influence),
        ("validation_harm", expected.harm * alpha),
    ):
        found = read_score(run, run_data(run), name)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=2e-3 * np.abs(found).max())

    # A checkpoint at the end of every epoch.
    model = of_images(16)
    model.load_state_dict(Trajectory.load(folder).load_weights(0))
    losses = cross_entropy(model(images), labels, reduction="none").detach()
    torch.testing.assert_close(read_epoch(main_directory(run), 1)["loss"], losses, atol=1e-5, rtol=1e-4)
    assert pq.read_table(run / "rows.parquet").num_rows == len(labels)
    early = facts["early_epoch"]
    if 2 * early < EPOCHS:
        window = Trajectory.load(early_trajectory(run))
        assert [each.epoch for each in window.checkpoints] == list(range(1, 2 * early + 1))


def test_a_training_with_another_loss_than_the_audit_takes_is_warned_of(tmp_path: Path) -> None:
    record(tmp_path / "recorded", torch.optim.SGD, 0.1 / 3, factor=3.0)
    run = tmp_path / "run"
    run_until(recorded_config(tmp_path / "recorded"), run, "detect")
    warnings = RunDirectory(run).facts("detect")["warnings"]
    (said,) = (each for each in warnings if each.startswith("training.trajectory"))
    times = re.search(r"Training's losses are ([\d.]+) times the loss .* Set training.label_smoothing", said)
    assert times is not None
    assert float(times[1]) == pytest.approx(3, rel=0.15)


def test_few_checkpoints_stand_for_the_epochs_around_them(tmp_path: Path) -> None:
    record(tmp_path / "adam", torch.optim.Adam, 0.01, checkpoints=2)
    run = tmp_path / "run"
    changes = {"training__optimizer": "adam", "training__learning_rate": 0.01}
    run_until(recorded_config(tmp_path / "adam", **changes), run, "factors")
    assert Trajectory.load(whole_trajectory(run)).optimizer.kind == "adam"
    losses = [read_epoch(main_directory(run), epoch)["loss"] for epoch in range(1, EPOCHS + 1)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[1], losses[3])


def test_batchnorm_comes_with_its_recorded_statistics(tmp_path: Path) -> None:
    record(tmp_path / "recorded", torch.optim.SGD, 0.1, build=with_batchnorm)
    run, trajectory = tmp_path / "run", Trajectory.load(tmp_path / "recorded")
    changes = {"model__target": "own_model:with_batchnorm", "model__kwargs": {}}
    changes |= {"attribution__query_at": "final"}
    run_until(recorded_config(tmp_path / "recorded", **changes), run, "attribute")
    images, labels = read("train")
    for epoch, place in ((1, 0), (EPOCHS, 3)):
        model = with_batchnorm().eval()
        model.load_state_dict(trajectory.load_weights(place))
        losses = cross_entropy(model(images), labels, reduction="none").detach()
        torch.testing.assert_close(
            read_epoch(main_directory(run), epoch)["loss"], losses, atol=1e-5, rtol=1e-4
        )
    given = [(images, labels)], [read("validation")]
    expected = attribute(with_batchnorm(), trajectory, *given, fisher="exact", query_at="final")
    assert expected.harm is not None
    alpha = RunDirectory(run).facts("factors")["alpha"]
    for name, wanted in (
        ("self_influence", expected.self_influence),
        ("validation_harm", expected.harm * alpha),
    ):
        found = read_score(run, run_data(run), name)
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=2e-3 * np.abs(found).max())


@pytest.mark.parametrize(
    ("changes", "said", "hint"),
    [
        ({"training__epochs": 7}, "ends after 4 epochs, but training.epochs is 7", "training.epochs to 4"),
        ({"training__optimizer": "adam"}, "was trained by sgd, but training.optimizer is adam", "`training`"),
        ({"model__kwargs": {"width": 15}}, r"'1.weight' has shape \(16, 64\)", "as it was built"),
        ({"attribution__segments": 3}, "attribution.segments: 4 checkpoints can't be cut into 3", "divides"),
        (
            {"data__train": "data_samples/digits/train/part-000.parquet"},
            "was trained on 1,200 rows",
            "very rows",
        ),
        (
            {"training__trajectory": "nowhere"},
            "training.trajectory: There is no trajectory at nowhere",
            "Record",
        ),
        ({"attribution__ensemble": 2}, "`attribution.ensemble` needs trainings of its own", "Change"),
    ],
)
def test_what_does_not_fit_is_named(
    changes: dict[str, object], said: str, hint: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said) as error:
        run_until(recorded_config(folder, **changes), tmp_path / "run", "train")
    assert hint in (error.value.hint or "")


def test_adam_without_its_state_is_to_be_recorded_again(tmp_path: Path) -> None:
    record(tmp_path / "adam", torch.optim.Adam, 0.01, checkpoints=1)
    (state,) = (tmp_path / "adam").glob("*.optimizer.safetensors")
    state.unlink()
    changes = {"training__optimizer": "adam", "training__learning_rate": 0.01}
    with pytest.raises(InputError, match="no second moments") as error:
        run_until(recorded_config(tmp_path / "adam", **changes), tmp_path / "run", "train")
    assert "which keeps Adam's state" in (error.value.hint or "")
