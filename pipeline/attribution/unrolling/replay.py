"""The replay of recorded training, piece by piece. A piece that doesn't repeat bit for bit is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.attribution.errors import AttributionError, CheckpointError
from pipeline.attribution.model.calls import predict
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.derivatives import RowSource
from pipeline.attribution.trajectory.weights import load_weights, restore_weights
from pipeline.attribution.unrolling.replay_recorder import (
    RECORD_NAME,
    REPLAY_TAIL_NAME,
    STEPS_NAME,
    check_batchnorm,
    state_path,
    state_tensors,
)
from pipeline.attribution.unrolling.updates import StepPoint, UpdateRule, update_rule
from pipeline.attribution.unrolling.vectors import ParameterVector


class ReplayError(AttributionError):
    """The replayed training differs from the recorded training."""


@dataclass(frozen=True)
class ReplayedStep:
    """One replayed step.

    Attributes:
        step: the number of the step, from 0.
        rows: int64 ``[batch]``, the numbers of the batch's rows.
        divisor: the number by which the sum of the losses was divided.
        point: the values at which the step was taken.
        random: the state of the random generator before the forward pass; None if the pass drew no random numbers.
    """

    step: int
    rows: Tensor
    divisor: float
    point: StepPoint
    random: Tensor | None


@dataclass(frozen=True)
class Replay:
    """A recording of ``ReplayRecorder``.

    Attributes:
        directory: the folder of the recording.
        optimizer: the name of the optimizer's class.
        groups: ``updates.group_records`` of the optimizer.
        steps: T, the number of steps.
        train_rows: N, the number of training rows.
        tail_steps: the number of last steps over which the weights of the query are averaged; 1 for the final weights.
        averaged: whether there is a tail average.
        stored: the steps whose states are stored, ascending from 0 to T.
        training_modules: the names of the modules that were in training mode.
        tensors: the recorded facts of each step, from ``steps.safetensors``.
    """

    directory: Path
    optimizer: str
    groups: list[dict[str, Any]]
    steps: int
    train_rows: int
    tail_steps: int
    averaged: bool
    stored: list[int]
    training_modules: list[str]
    tensors: Mapping[str, Tensor]

    @classmethod
    def load(cls, directory: str | Path) -> Replay:
        """Reads the recorded facts of each step. States are read later, when they are needed.

        Args:
            directory: the folder of the recording.

        Raises:
            CheckpointError: the recording is missing or damaged.
        """
        directory = Path(directory)
        path = directory / RECORD_NAME
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            replay = cls(directory=directory, tensors=load_weights(directory / STEPS_NAME), **record)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"There is no recording at {path}.", "Record one with ReplayRecorder while training."
            ) from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error!r}).", "Train again to record it anew."
            ) from error
        for step in replay.stored:
            if not state_path(directory, step).is_file():
                raise CheckpointError(
                    f"The state {state_path(directory, step)} is missing.", "Restore the file or train again."
                )
        return replay

    @property
    def rule(self) -> UpdateRule:
        return update_rule(self.optimizer)

    def vector(self, model: nn.Module) -> ParameterVector:
        """Returns the order of the parameters in vectors, group by group."""
        return ParameterVector(model, [group["parameters"] for group in self.groups])

    def load_query_point(self, model: nn.Module) -> None:
        """Loads the weights of the query: the tail average, or the final weights if there is no average."""
        if self.averaged:
            restore_weights(model, load_weights(self.directory / REPLAY_TAIL_NAME), self.directory)
            return
        self._restore(model, self.stored[-1], None)

    def final_weights(self) -> dict[str, Tensor]:
        """Returns the state dict after the last step."""
        return _state_dict(load_weights(state_path(self.directory, self.stored[-1])))

    def pieces_backwards(
        self, model: nn.Module, objective: Objective, rows: RowSource
    ) -> Iterator[list[ReplayedStep]]:
        """Replays training and yields the steps between two stored states, the last piece first.

        The steps within a piece are in the order of training.

        Args:
            model: the model; replaying changes its weights and modes.
            objective: the training objective.
            rows: returns training rows by their numbers, as they were in training, with their weights.

        Raises:
            CheckpointError: the model doesn't have the recorded parameters.
            ReplayError: the state at the end of a piece differs from the recorded state.
        """
        missing = [name for group in self.groups for name in group["parameters"]]
        own = dict(model.named_parameters())
        if any(name not in own for name in missing):
            raise CheckpointError(
                "The recording is of a model with other parameters.", "Build it as it was built for training."
            )
        trained = set(self.training_modules)
        for name, module in model.named_modules():
            module.training = name in trained
        check_batchnorm(model)
        offsets = [0, *self.tensors["lengths"].cumsum(0).tolist()]
        for place in range(len(self.stored) - 1, 0, -1):
            yield self._piece(model, objective, rows, place, offsets)

    def _piece(
        self, model: nn.Module, objective: Objective, rows: RowSource, place: int, offsets: list[int]
    ) -> list[ReplayedStep]:
        start, stop = self.stored[place - 1], self.stored[place]
        optimizer = self._optimizer(model)
        self._restore(model, start, optimizer)
        vector, drew = self.vector(model), self.tensors["drew"].tolist()
        random = dict(zip(drew, self.tensors.get("random", ()), strict=True))
        found = []
        device = next(model.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for step in range(start, stop):
                chosen = self.tensors["rows"][offsets[step] : offsets[step + 1]]
                divisor = float(self.tensors["divisors"][step])
                if step in random:
                    set_random_state(model, random[step])
                for group, rate in zip(
                    optimizer.param_groups, self.tensors["rates"][step].tolist(), strict=True
                ):
                    group["lr"] = rate
                point = self._step(model, optimizer, objective, rows, chosen, divisor, vector)
                found.append(ReplayedStep(step, chosen, divisor, point, random.get(step)))
        self._check(model, optimizer, start, stop)
        return found

    def _step(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        objective: Objective,
        rows: RowSource,
        chosen: Tensor,
        divisor: float,
        vector: ParameterVector,
    ) -> StepPoint:
        """Takes one step, and returns the values at which it was taken."""
        batch, parameters = rows(chosen), dict(model.named_parameters())
        weights = vector.flatten(parameters)
        losses = objective.losses(predict(model, batch.inputs), batch.labels)
        if batch.weights is not None:
            losses = losses * batch.weights.to(losses)
        optimizer.zero_grad()
        (losses.sum() / divisor).backward()
        rates = tuple(float(group["lr"]) for group in optimizer.param_groups)
        if self.rule.linear:
            unused = weights.new_zeros(()).expand_as(weights)
            point = StepPoint(weights, dict.fromkeys(self.rule.slots, unused), unused, rates, 1)
        else:
            state = [optimizer.state.get(parameters[name], {}) for name in vector.shapes]
            slots = {slot: _slot(vector, parameters, state, slot) for slot in self.rule.slots}
            gradients = {
                name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()
            }
            number = 1 + int(max(float(each.get("step", 0)) for each in state))
            point = StepPoint(weights, slots, vector.flatten(gradients), rates, number)
        optimizer.step()
        return point

    def _optimizer(self, model: nn.Module) -> Optimizer:
        parameters = dict(model.named_parameters())
        groups = [{"params": [parameters[name] for name in group["parameters"]]} for group in self.groups]
        optimizer = self.rule.optimizer(groups, lr=0.0)  # type: ignore[call-arg]
        for group, recorded in zip(optimizer.param_groups, self.groups, strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in recorded["options"].items()})
        return optimizer

    def _restore(self, model: nn.Module, step: int, optimizer: Optimizer | None) -> None:
        path = state_path(self.directory, step)
        tensors, parameters = load_weights(path), dict(model.named_parameters())
        restore_weights(model, _state_dict(tensors), path)
        if optimizer is None:
            return
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                slot, parameter = name.removeprefix("optimizer/").split("/", 1)
                own = parameters[parameter]
                device = "cpu" if slot == "step" else own.device
                optimizer.state[own][slot] = tensor.to(device, copy=True)

    def _check(self, model: nn.Module, optimizer: Optimizer, start: int, stop: int) -> None:
        recorded = load_weights(state_path(self.directory, stop))
        repeated = state_tensors(model, optimizer)
        for name, tensor in recorded.items():
            if name not in repeated or not torch.equal(repeated[name].cpu(), tensor):
                raise ReplayError(
                    f"Steps {start + 1} to {stop} don't repeat bit for bit: {name.split('/', 1)[1]!r} differs.",
                    "Give the same rows in the same order, the loss, device and number of threads of training; a "
                    "step must be one plain mean loss, without augmentation, clipping or mixed precision.",
                )


def _state_dict(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights and buffers of a stored state."""
    return {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}


def _slot(
    vector: ParameterVector, parameters: Mapping[str, Tensor], state: list[Mapping[str, Tensor]], slot: str
) -> Tensor:
    found = zip(vector.shapes, state, strict=True)
    return vector.flatten({n: each.get(slot, torch.zeros_like(parameters[n])) for n, each in found})


def set_random_state(model: nn.Module, state: Tensor) -> None:
    """Sets the state of the random generator of the model's device."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state.clone())  # torch refuses a view of a larger tensor
