"""A training run as attribution sees it: checkpoints on disk, and the learning rates between them.

A trajectory is a folder:

    trajectory.json                 {"steps", "tail": "tail.safetensors" | null,
                                     "stages": [{"name", "train_rows", "kind", "momentum", "dampening", "nesterov",
                                                 "beta2", "eps", "groups": [{"parameters", "weight_decay"}, …]}, …],
                                     "checkpoints": [{"step", "epoch", "stage", "lr_sum", "applied"}, …]}
    <step>.safetensors              the model's state dict with its buffers; tied tensors once
    <step>.optimizer.safetensors    "second_moment/<parameter>": Adam's bias-corrected v̂
    tail.safetensors                the mean of the last iterates

``lr_sum`` is the plain sum of the first group's learning rates over the steps since the checkpoint before;
``applied`` holds, per group, what the optimizer made of these steps' gradients (``optimizers.AppliedSums``). A file
without stages, as earlier versions wrote it, is one stage of SGD with the steady state's 1/(1 − momentum).
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
from pipeline.attribution.trajectory.optimizers import OptimizerSettings, ParameterGroup, check_kind
from pipeline.attribution.trajectory.weights import load_weights

FILE_NAME = "trajectory.json"
TAIL_NAME = "tail.safetensors"
MOMENT = "second_moment/"


@dataclass(frozen=True)
class Stage:
    """A part of training with its own data, objective or optimizer.

    Attributes:
        train_rows: N, how many rows it trains on.
        optimizer: its settings.
        name: for people.
    """

    train_rows: int
    optimizer: OptimizerSettings
    name: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        step: optimizer steps done.
        epoch: epochs done, or None where the training loop didn't say.
        lr_sum: sum of the learning rates of the steps since the checkpoint before, as the optimizer had them.
        path: the file with the weights.
        stage: the stage that it belongs to, counted from 0.
        applied: per parameter group, what was applied of the gradients since the checkpoint before; None in
            records without it.
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
    """Consecutive checkpoints over which curvature and gradients count as constant.

    Attributes:
        checkpoints: places of its checkpoints in the trajectory, ascending.
        lr_sum: η̄K, the sum of its *effective* learning rates (momentum included), the largest of the groups'.
        weight_decay: of all parameters; 0 where it differs between them or Adam is used, where
            ``conditioners.segment_conditioners`` has it.
        stage: the stage that it is a part of.
        group_sums: ``lr_sum`` of every parameter group.
    """

    checkpoints: tuple[int, ...]
    lr_sum: float
    weight_decay: float
    stage: int = 0
    group_sums: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trajectory:
    """A recorded training run; see the module's text for its files."""

    directory: Path
    checkpoints: tuple[Checkpoint, ...]
    stages: tuple[Stage, ...]
    steps: int
    tail: Path | None

    @classmethod
    def load(cls, directory: str | Path) -> Trajectory:
        """Reads ``trajectory.json``; weights are read when asked for.

        Raises:
            CheckpointError: the file or a checkpoint is missing or damaged.
            OptimizerError: the run used an optimizer whose formula isn't known here.
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
            )
        except FileNotFoundError as error:
            raise CheckpointError(
                f"There is no trajectory at {path}.", "Record one while training."
            ) from error
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
        """N of the last stage."""
        return self.stages[-1].train_rows

    @property
    def optimizer(self) -> OptimizerSettings:
        """Of the last stage."""
        return self.stages[-1].optimizer

    @property
    def adaptive(self) -> bool:
        """Whether any stage used Adam."""
        return any(stage.optimizer.adaptive for stage in self.stages)

    def segments(self, count: int | Sequence[int] = 1) -> list[Segment]:
        """Cuts every stage into ``count`` segments with equally many checkpoints each; one number or one a stage.

        Raises:
            AttributionError: the checkpoints can't be divided so.
        """
        counts = [count] * len(self.stages) if isinstance(count, int) else list(count)
        if len(counts) != len(self.stages):
            raise AttributionError(
                f"There are {len(counts)} numbers of segments for {len(self.stages)} stages.",
                "Give one number, or one for each stage.",
            )
        return [segment for stage, each in enumerate(counts) for segment in self._stage_segments(stage, each)]

    def load_weights(self, checkpoint: int) -> dict[str, Tensor]:
        """The state dict of the ``checkpoint``-th checkpoint, tied tensors once."""
        return load_weights(self.checkpoints[checkpoint].path)

    def load_second_moments(self, checkpoint: int) -> dict[str, Tensor]:
        """Parameter name -> v̂ of Adam at the ``checkpoint``-th checkpoint, of parameters that had gradients.

        Raises:
            CheckpointError: it was not kept.
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
        """The mean of the last iterates.

        Raises:
            CheckpointError: the run didn't keep it.
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
    stages: Sequence[Stage],
    steps: int,
    tail: str | None = TAIL_NAME,
) -> None:
    """Writes ``trajectory.json`` atomically; write the weights first, for it says that they are complete.

    ``checkpoints`` are ``{"step", "epoch", "lr_sum"}`` with ``stage`` (default 0) and ``applied`` (default: by the
    steady state), ascending by step.
    """
    for stage in stages:
        check_kind(stage.optimizer.kind)
    record = {
        "steps": steps,
        "tail": tail,
        "stages": [stage_record(stage) for stage in stages],
        "checkpoints": [dict(checkpoint) for checkpoint in checkpoints],
    }
    with write_atomically(Path(directory) / FILE_NAME) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def weights_path(directory: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(directory) / f"{step}.safetensors"


def stage_record(stage: Stage) -> dict[str, Any]:
    """For JSON."""
    return {"name": stage.name, "train_rows": stage.train_rows, **asdict(stage.optimizer)}


def stage_from_record(record: Mapping[str, Any]) -> Stage:
    """The inverse of ``stage_record``."""
    groups = tuple(
        ParameterGroup(
            None if each["parameters"] is None else tuple(each["parameters"]), float(each["weight_decay"])
        )
        for each in record["groups"]
    )
    if not groups:
        raise ValueError("a stage without parameter groups")
    settings = {field.name: record[field.name] for field in fields(OptimizerSettings)}
    return Stage(
        int(record["train_rows"]), OptimizerSettings(**(settings | {"groups": groups})), str(record["name"])
    )


def _stage_records(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages; those of a file without them is one of SGD."""
    if "stages" in record:
        return list(record["stages"])
    settings = OptimizerSettings(
        str(record["optimizer"]),
        (ParameterGroup(None, float(record["weight_decay"])),),
        float(record["momentum"]),
        float(record["dampening"]),
    )
    return [stage_record(Stage(int(record["train_rows"]), settings))]


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
