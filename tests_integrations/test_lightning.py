"""Trajectories that are recorded from Lightning, against what its own hooks saw."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pipeline.attribution import AttributionError, Trajectory, attribute
from pipeline.attribution.callbacks.lightning import TrajectoryCallback

ROWS = 40
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        self.losses: list[float] = []

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.5)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 15)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Seen(Callback):
    """What Lightning did, step by step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, _trainer: Trainer, _module: Classifier, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, module: Classifier, *_: Any) -> None:
        if trainer.global_step > len(self.weights):
            self.weights.append({name: value.clone() for name, value in module.state_dict().items()})


def rows_of(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(ROWS, 5, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*rows_of(0)), batch_size=4, shuffle=True)


def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    given = {"max_epochs": 3, "accelerator": "cpu", "enable_checkpointing": False} | quiet | settings
    return Trainer(callbacks=list(callbacks), **given)


def check(trajectory: Trajectory, seen: Seen, steps: list[int]) -> None:
    assert [each.step for each in trajectory.checkpoints] == steps
    for place, step in enumerate(steps):
        torch.testing.assert_close(trajectory.load_weights(place), seen.weights[step - 1], rtol=0, atol=0)
    assert sum(each.lr_sum for each in trajectory.checkpoints) == pytest.approx(sum(seen.rates))


def test_steps_rates_weights_and_losses_are_those_of_lightning(tmp_path: Path) -> None:
    seen, module = Seen(), Classifier()
    trainer(TrajectoryCallback(tmp_path, checkpoints=3), seen, accumulate_grad_batches=2).fit(
        module, loader()
    )
    trajectory = Trajectory.load(tmp_path)
    check(trajectory, seen, [5, 10, 15])
    (stage,) = trajectory.stages
    assert (stage.train_rows, stage.batch_size, stage.optimizer.kind) == (ROWS, 8, "sgd")
    # of the two batches of a step
    assert [(each.step, each.loss) for each in trajectory.measured] == [
        (each.step, pytest.approx(sum(module.losses[2 * each.step - 2 : 2 * each.step]) / 2, rel=1e-5))
        for each in trajectory.measured
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = attribute(module, trajectory, [rows_of(0)], [rows_of(1)])
    assert scores.harm is not None
    assert scores.harm.isfinite().all()


def test_clipping_by_the_trainer_is_named(tmp_path: Path) -> None:
    module = Classifier()
    trainer(TrajectoryCallback(tmp_path), gradient_clip_val=0.05).fit(module, loader())
    with pytest.warns(UserWarning, match=r"have the norm 0\.05, as after clip_grad_norm_"):
        attribute(module, Trajectory.load(tmp_path), [rows_of(0)], [rows_of(1)], method="graddot")


def test_a_submodule_is_recorded_under_its_own_names(tmp_path: Path) -> None:
    module = Classifier()
    trainer(TrajectoryCallback(tmp_path, module="network")).fit(module, loader())
    scores = attribute(module.network, Trajectory.load(tmp_path), [rows_of(0)], [rows_of(1)])
    assert scores.harm is not None


def test_early_stopping_ends_the_recording(tmp_path: Path) -> None:
    seen = Seen()
    stop = EarlyStopping("loss", patience=1, min_delta=10.0)
    trainer(TrajectoryCallback(tmp_path), stop, seen, max_epochs=20).fit(Classifier(), loader())
    trajectory = Trajectory.load(tmp_path)
    assert trajectory.steps == len(seen.weights) < 200
    check(trajectory, seen, [each.step for each in trajectory.checkpoints])


def test_a_resumed_training_goes_on_with_its_recording(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 12:
                trainer.save_checkpoint(tmp_path / "state.ckpt")
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        trainer(TrajectoryCallback(tmp_path / "trajectory"), Stop()).fit(Classifier(), loader())
    assert not (tmp_path / "trajectory" / "trajectory.json").exists()
    trainer(TrajectoryCallback(tmp_path / "trajectory")).fit(
        Classifier(), loader(), ckpt_path=tmp_path / "state.ckpt"
    )
    assert [each.step for each in Trajectory.load(tmp_path / "trajectory").checkpoints] == [
        5,
        10,
        15,
        20,
        25,
        30,
    ]


def test_several_optimizers_are_refused_before_training(tmp_path: Path) -> None:
    class Two(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [
                torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.network[0], self.network[2])
            ]

    with pytest.raises(AttributionError, match="Training has 2 optimizers"):
        trainer(TrajectoryCallback(tmp_path)).fit(Two(), loader())


def test_steps_without_an_end_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(AttributionError, match="number of steps isn't known"):
        trainer(TrajectoryCallback(tmp_path), max_epochs=-1).fit(Classifier(), loader())
