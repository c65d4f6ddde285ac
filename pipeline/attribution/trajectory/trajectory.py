"""A recorded training run: checkpoints on disk, and the learning rates between them.

A trajectory is a folder:

    trajectory.json                 {"steps", "tail": "tail.safetensors" | null,
                                     "stages": [{"name", "train_rows", "batch_size", "kind", "momentum", "dampening",
                                                 "nesterov", "beta2", "eps",
                                                 "groups": [{"parameters", "weight_decay"}, …]}, …],
                                     "checkpoints": [{"step", "epoch", "stage", "lr_sum", "applied"}, …],
                                     "measured": [[step, loss, gradient norm], …]}
    progress.json                   {"done", "announced"}: the step of the last checkpoint, the steps promised
    <step>.safetensors              the model's state dict with its buffers; tied tensors once
    <step>.optimizer.safetensors    "second_moment/<parameter>": Adam's bias-corrected v̂
    tail.safetensors                the mean of the weights after each of the last steps

``lr_sum`` is the sum of the first group's learning rates over the steps since the checkpoint before. ``applied`` has a
number per parameter group: the sum of the effective learning rates with which these steps' gradients are applied
(``optimizers.AppliedSums``). ``measured`` has the steps near checkpoints (``measured_steps.MeasuredStep``). Files of
earlier versions have no ``stages``. Such a file is read as one stage of SGD with momentum at its steady state
(``OptimizerSettings.steady_factor``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.attribution.atomic import write_atomically
from pipeline.attribution.errors import AttributionError, CheckpointError
from pipeline.attribution.trajectory.measured_steps import MeasuredStep, measured_steps
from pipeline.attribution.trajectory.optimizers import OptimizerSettings, ParameterGroup, check_kind
from pipeline.attribution.trajectory.weights import load_weights

FILE_NAME = "trajectory.json"
PROGRESS_NAME = "progress.json"
TAIL_NAME = "tail.safetensors"
MOMENT = "second_moment/"


@dataclass(frozen=True)
class TrainingStage:
    """A part of training with its own data, objective or optimizer.

    Attributes:
        train_rows: N, the number of rows that the stage trains on.
        optimizer: the settings of the stage's optimizer.
        name: a name for people.
        batch_size: the number of rows of one optimizer step, or None if the training loop didn't say.
    """

    train_rows: int
    optimizer: OptimizerSettings
    name: str = ""
    batch_size: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        step: the number of optimizer steps done.
        epoch: the number of epochs done, or None if the training loop didn't say.
        lr_sum: the sum of the first group's learning rates over the steps since the checkpoint before.
        path: the file with the weights.
        stage: the stage that the checkpoint belongs to, counted from 0.
        applied: per parameter group, the sum of effective learning rates since the checkpoint before
            (``optimizers.AppliedSums``); None in files of earlier versions.
    """

    step: int
    epoch: float | None
    lr_sum: float
    path: Path
    stage: int = 0
    applied: tuple[float, ...] | None = None

    @property
    def optimizer_path(self) -> Path:
        return self.path.with_name(f"{self.step}.optimizer.safetensors")


@dataclass(frozen=True)
class Segment:
    """Consecutive checkpoints over which curvature and gradients are treated as constant.

    Attributes:
        checkpoints: the places of the checkpoints in the trajectory, ascending.
        lr_sum: η̄K, the sum of the *effective* learning rates (momentum included). With several parameter groups, it
            is the largest of their sums.
        weight_decay: the weight decay, if SGD has the same decay and learning rates for all parameter groups. It is 0
            otherwise; ``preconditioners.segment_preconditioners`` then has the decay of each parameter.
        stage: the stage that the segment is a part of.
        group_sums: the sum of effective learning rates of every parameter group.
    """

    checkpoints: tuple[int, ...]
    lr_sum: float
    weight_decay: float
    stage: int = 0
    group_sums: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trajectory:
    """A recorded training run.

    Attributes:
        directory: the folder; the module's docstring describes its files.
        checkpoints: the checkpoints, ascending by step.
        stages: the stages of training, first to last.
        steps: the number of optimizer steps of the whole training.
        tail: the file with the mean of the last weights, or None.
        measured: losses and gradient norms of steps near the checkpoints.
    """

    directory: Path
    checkpoints: tuple[Checkpoint, ...]
    stages: tuple[TrainingStage, ...]
    steps: int
    tail: Path | None
    measured: tuple[MeasuredStep, ...] = ()

    @classmethod
    def load(cls, directory: str | Path) -> Trajectory:
        """Reads ``trajectory.json``. Weights are read later, when they are asked for.

        Args:
            directory: the folder of the trajectory.

        Raises:
            CheckpointError: the file is missing or damaged, or a file of weights is missing.
            OptimizerError: the formulas of this library don't cover the optimizer of a stage.
        """
        directory = Path(directory)
        path = directory / FILE_NAME
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            trajectory = cls(
                directory,
                tuple(_checkpoint(directory, each) for each in record["checkpoints"]),
                tuple(stage_from_record(each) for each in _stage_records(record)),
                int(record["steps"]),
                directory / record["tail"] if record["tail"] else None,
                measured_steps(record.get("measured", ())),
            )
        except FileNotFoundError as error:
            raise _no_trajectory(path) from error
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error!r}).", "Train again to record it anew."
            ) from error
        for stage in trajectory.stages:
            check_kind(stage.optimizer.kind)
        trajectory._check_files()
        return trajectory

    @property
    def train_rows(self) -> int:
        """N, the number of training rows, of the last stage."""
        return self.stages[-1].train_rows

    @property
    def optimizer(self) -> OptimizerSettings:
        """The optimizer settings of the last stage."""
        return self.stages[-1].optimizer

    @property
    def adaptive(self) -> bool:
        """Whether any stage used Adam."""
        return any(stage.optimizer.adaptive for stage in self.stages)

    def segments(self, count: int | Sequence[int] = 1) -> list[Segment]:
        """Cuts every stage into segments with equal numbers of checkpoints.

        Args:
            count: the number of segments of every stage, or one number for each stage.

        Raises:
            AttributionError: the checkpoints of a stage can't be divided equally.
        """
        counts = [count] * len(self.stages) if isinstance(count, int) else list(count)
        if len(counts) != len(self.stages):
            raise AttributionError(
                f"There are {len(counts)} numbers of segments for {len(self.stages)} stages.",
                "Give one number, or one for each stage.",
            )
        return [segment for stage, each in enumerate(counts) for segment in self._stage_segments(stage, each)]

    def load_weights(self, checkpoint: int) -> dict[str, Tensor]:
        """Returns the state dict of the ``checkpoint``-th checkpoint. Tied tensors are in it once."""
        return load_weights(self.checkpoints[checkpoint].path)

    def load_second_moments(self, checkpoint: int) -> dict[str, Tensor]:
        """Returns parameter -> Adam's v̂ at the ``checkpoint``-th checkpoint, for parameters that had gradients.

        Raises:
            CheckpointError: the checkpoint has no second moments.
        """
        path = self.checkpoints[checkpoint].optimizer_path
        state = load_weights(path) if path.is_file() else {}
        found = {name.removeprefix(MOMENT): v for name, v in state.items() if name.startswith(MOMENT)}
        if not found:
            raise CheckpointError(
                f"The checkpoint at step {self.checkpoints[checkpoint].step} has no second moments of Adam "
                f"in {path}.",
                "Record the run with TrajectoryRecorder, or use method='source_sgd_formula'.",
            )
        return found

    def load_tail(self) -> dict[str, Tensor]:
        """Returns the tail average: the mean state dict of the last steps.

        Raises:
            CheckpointError: the run has no tail average.
        """
        if self.tail is None:
            raise CheckpointError(
                f"The trajectory {self.directory} has no tail average.", "Use query_at='final'."
            )
        return load_weights(self.tail)

    def _stage_segments(self, stage: int, count: int) -> list[Segment]:
        places = [place for place, each in enumerate(self.checkpoints) if each.stage == stage]
        if count < 1 or len(places) % count:
            of = f" of stage {stage}" if len(self.stages) > 1 else ""
            raise AttributionError(
                f"{len(places)} checkpoints{of} can't be cut into {count} equal segments.",
                "Record more checkpoints, or ask for fewer segments."
                if count > len(places)
                else "Choose a number of segments that divides the number of checkpoints.",
            )
        size = len(places) // count
        return [self._segment(stage, places[start : start + size]) for start in range(0, len(places), size)]

    def _segment(self, stage: int, places: Sequence[int]) -> Segment:
        settings = self.stages[stage].optimizer
        applied = [self._applied(self.checkpoints[place], settings) for place in places]
        sums = tuple(map(sum, zip(*applied, strict=True)))
        decays = {group.weight_decay for group in settings.groups}
        plain = not settings.adaptive and len(set(sums)) == 1 and len(decays) == 1
        return Segment(tuple(places), max(sums), decays.pop() if plain else 0.0, stage, sums)

    @staticmethod
    def _applied(checkpoint: Checkpoint, settings: OptimizerSettings) -> tuple[float, ...]:
        if checkpoint.applied is not None:
            return checkpoint.applied
        return (settings.steady_factor * checkpoint.lr_sum,) * len(settings.groups)

    def _check_files(self) -> None:
        empty = not self.stages or any(stage.train_rows < 1 for stage in self.stages)
        if empty or {each.stage for each in self.checkpoints} != set(range(len(self.stages))):
            raise CheckpointError(
                f"The trajectory {self.directory} has no checkpoints or no training rows.", "Train again."
            )
        for path in [*(c.path for c in self.checkpoints), *([self.tail] if self.tail else [])]:
            if not path.is_file():
                raise CheckpointError(f"The weights {path} are missing.", "Restore the file or train again.")


def write_trajectory(
    directory: str | Path,
    *,
    checkpoints: Sequence[Mapping[str, Any]],
    stages: Sequence[TrainingStage],
    steps: int,
    tail: str | None = TAIL_NAME,
    measured: Sequence[Sequence[Any]] = (),
) -> None:
    """Writes ``trajectory.json`` atomically. The weights must be complete before, because the file says that they are.

    Args:
        directory: the folder of the trajectory.
        checkpoints: ``{"step", "epoch", "lr_sum"}`` of each checkpoint, ascending by step. ``"stage"`` is 0 by default.
            Without ``"applied"``, momentum counts as in its steady state.
        stages: the stages of training, first to last.
        steps: the number of optimizer steps of the whole training.
        tail: the name of the file with the tail average, or None.
        measured: ``measured_steps.StepMeasures.records``.

    Raises:
        OptimizerError: the formulas of this library don't cover the optimizer of a stage.
    """
    for stage in stages:
        check_kind(stage.optimizer.kind)
    record = {
        "steps": steps,
        "tail": tail,
        "stages": [stage_record(stage) for stage in stages],
        "checkpoints": [dict(checkpoint) for checkpoint in checkpoints],
        "measured": [list(each) for each in measured],
    }
    with write_atomically(Path(directory) / FILE_NAME) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def write_progress(directory: str | Path, done: int, announced: int) -> None:
    """Writes how far a recording is, for the message about a training that stopped early.

    Args:
        directory: the folder of the trajectory.
        done: the step of the last checkpoint.
        announced: the number of steps that the recorder was promised.
    """
    with write_atomically(Path(directory) / PROGRESS_NAME) as temporary:
        temporary.write_text(json.dumps({"done": done, "announced": announced}), encoding="utf-8")


def _no_trajectory(path: Path) -> CheckpointError:
    """Returns the error of a folder without ``trajectory.json``; it says how far a recording there came."""
    try:
        progress = json.loads(path.with_name(PROGRESS_NAME).read_text(encoding="utf-8"))
        far = f"{int(progress['done'])} of {int(progress['announced'])}"
    except (OSError, KeyError, TypeError, ValueError):
        return CheckpointError(f"There is no trajectory at {path}.", "Record one while training.")
    return CheckpointError(
        f"There is no trajectory at {path}: its recording stopped, with a checkpoint after {far} announced steps.",
        "Call recorder.finish() where training stops early.",
    )


def weights_path(directory: str | Path, step: int) -> Path:
    """Returns the path of the weights after a step."""
    return Path(directory) / f"{step}.safetensors"


def stage_record(stage: TrainingStage) -> dict[str, Any]:
    """Returns a stage as a dictionary for JSON."""
    sizes = {"train_rows": stage.train_rows, "batch_size": stage.batch_size}
    return {"name": stage.name, **sizes, **asdict(stage.optimizer)}


def stage_from_record(record: Mapping[str, Any]) -> TrainingStage:
    """Returns a stage: the inverse of ``stage_record``."""
    groups = tuple(
        ParameterGroup(
            None if each["parameters"] is None else tuple(each["parameters"]), float(each["weight_decay"])
        )
        for each in record["groups"]
    )
    if not groups:
        raise ValueError("a stage without parameter groups")
    settings = {field.name: record[field.name] for field in fields(OptimizerSettings)}
    batch_size = record.get("batch_size")
    return TrainingStage(
        int(record["train_rows"]),
        OptimizerSettings(**(settings | {"groups": groups})),
        str(record["name"]),
        None if batch_size is None else int(batch_size),
    )


def _stage_records(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the records of the stages. A file of an earlier version has one stage of SGD."""
    if "stages" in record:
        return list(record["stages"])
    settings = OptimizerSettings(
        str(record["optimizer"]),
        (ParameterGroup(None, float(record["weight_decay"])),),
        float(record["momentum"]),
        float(record["dampening"]),
    )
    return [stage_record(TrainingStage(int(record["train_rows"]), settings))]


def _checkpoint(directory: Path, record: Mapping[str, Any]) -> Checkpoint:
    step, applied = int(record["step"]), record.get("applied")
    return Checkpoint(
        step,
        record["epoch"],
        float(record["lr_sum"]),
        weights_path(directory, step),
        int(record.get("stage", 0)),
        None if applied is None else tuple(float(each) for each in applied),
    )
