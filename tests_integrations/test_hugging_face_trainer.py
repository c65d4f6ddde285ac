"""Trajectories that are recorded from Hugging Face's Trainer, against what its own hooks saw."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from pipeline.attribution import AttributionError, Trajectory, attribute
from pipeline.attribution.callbacks.hugging_face import TrajectoryCallback

ROWS, LENGTH = 40, 6


def rows_of(seed: int) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (ROWS, LENGTH), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, (ids[:, 0] > 9).long()


def rows_for_the_trainer(seed: int) -> list[dict[str, Any]]:
    inputs, labels = rows_of(seed)
    names = list(inputs)
    return [{"labels": labels[row], **{name: inputs[name][row] for name in names}} for row in range(ROWS)]


def bert() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(**sizes, vocab_size=20, max_position_embeddings=8))


class Seen(TrainerCallback):
    """What the Trainer did, step by step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.norms: list[float] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, _args, _state, _control, *, model, optimizer, **_: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        self.norms.append(torch.cat(gradients).norm().item())

    def on_step_end(self, _args, _state, _control, *, model, **_: Any) -> None:
        self.weights.append({name: value.clone() for name, value in model.state_dict().items()})


def trainer(directory: Path, *callbacks: TrainerCallback, **settings: Any) -> Trainer:
    given = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 3,
        "learning_rate": 2e-3,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    } | settings
    return Trainer(
        model=bert(),
        args=TrainingArguments(output_dir=str(directory / "output"), **given),
        train_dataset=rows_for_the_trainer(0),
        eval_dataset=rows_for_the_trainer(1),
        callbacks=list(callbacks),
    )


def check(trajectory: Trajectory, seen: Seen, steps: list[int]) -> None:
    assert [each.step for each in trajectory.checkpoints] == steps
    for place, step in enumerate(steps):
        weights = trajectory.load_weights(place)
        torch.testing.assert_close(
            {name: seen.weights[step - 1][name] for name in weights}, weights, rtol=0, atol=0
        )
    assert sum(each.lr_sum for each in trajectory.checkpoints) == pytest.approx(sum(seen.rates))
    norms = [(each.step, each.gradient_norm) for each in trajectory.measured]
    assert norms == [(step, pytest.approx(seen.norms[step - 1], rel=1e-5)) for step, _ in norms]


def test_steps_rates_weights_and_gradients_are_those_of_the_trainer(tmp_path: Path) -> None:
    seen = Seen()
    running = trainer(
        tmp_path,
        TrajectoryCallback(tmp_path / "trajectory", checkpoints=3),
        seen,
        gradient_accumulation_steps=2,
    )
    running.train()
    trajectory = Trajectory.load(tmp_path / "trajectory")
    check(trajectory, seen, [5, 10, 15])
    (stage,) = trajectory.stages
    assert (stage.train_rows, stage.batch_size, stage.optimizer.kind) == (ROWS, 8, "adamw")
    assert [each.epoch for each in trajectory.checkpoints] == pytest.approx([1, 2, 3])
    scores = attribute(running.model, trajectory, [rows_of(0)], [rows_of(1)])
    assert scores.harm is not None
    assert scores.harm.isfinite().all()


@pytest.mark.parametrize("limit", [1e6, 0.05], ids=["unclipped", "clipped"])
def test_losses_are_kept_and_clipping_is_named(limit: float, tmp_path: Path) -> None:
    running = trainer(tmp_path, TrajectoryCallback(tmp_path / "trajectory"), max_grad_norm=limit)
    running.train()
    trajectory = Trajectory.load(tmp_path / "trajectory")
    assert all(each.loss is not None for each in trajectory.measured)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attribute(running.model, trajectory, [rows_of(0)], [rows_of(1)], method="graddot")
    said = [str(each.message) for each in caught]
    if limit > 1:
        assert said == []
    else:
        assert "have the norm 0.05, as after clip_grad_norm_" in " ".join(said)


def test_early_stopping_records_the_last_weights_and_not_the_best(tmp_path: Path) -> None:
    seen = Seen()
    running = trainer(
        tmp_path,
        TrajectoryCallback(tmp_path / "trajectory"),
        seen,
        EarlyStoppingCallback(early_stopping_patience=1),
        num_train_epochs=10,
        learning_rate=0.5,  # far too much: the first evaluation is the best
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    running.train()
    last = len(seen.weights)
    assert last < 100
    trajectory = Trajectory.load(tmp_path / "trajectory")
    check(trajectory, seen, [each.step for each in trajectory.checkpoints])
    assert trajectory.checkpoints[-1].step == trajectory.steps == last
    best = running.model.state_dict()
    assert not all(torch.equal(best[name], value) for name, value in seen.weights[-1].items())


def test_a_resumed_training_is_recorded_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = Seen()
    saved = {"save_strategy": "steps", "save_steps": 10}
    trainer(tmp_path / "whole", TrajectoryCallback(tmp_path / "whole" / "trajectory"), whole, **saved).train()
    first = tmp_path / "whole" / "output" / "checkpoint-10"
    again = trainer(tmp_path / "whole", TrajectoryCallback(tmp_path / "whole" / "trajectory"), **saved)
    again.train(resume_from_checkpoint=str(first))
    resumed = Trajectory.load(tmp_path / "whole" / "trajectory")
    check(resumed, whole, [5, 10, 15, 20, 25, 30])
    (first / "trajectory_recorder.safetensors").unlink()
    with pytest.raises(AttributionError, match="no state of the recorder"):
        again.train(resume_from_checkpoint=str(first))
