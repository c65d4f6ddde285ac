"""Records what smoothed Gauss–Newton unrolling needs: the mean weights of equal pieces of training.

A recording is a folder:

    pieces.json              optimizer, its groups, steps, training rows, batch size, the pieces' first steps
    rates.safetensors        each step's learning rates
    piece-<i>.safetensors    the mean of the weights and buffers in a piece, and of Adam's second moments
    tail.safetensors         the mean of the last iterates
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.attribution.atomic import write_atomically
from pipeline.attribution.errors import AttributionError, CheckpointError
from pipeline.attribution.trajectory.recorder import check_announced, first_tail_step
from pipeline.attribution.trajectory.weights import (
    RunningMean,
    load_weights,
    save_weights,
    write_tensors,
)
from pipeline.attribution.unrolling.updates import check_step, check_unrollable, group_records

RECORD_NAME, RATES_NAME, PIECES_TAIL_NAME = "pieces.json", "rates.safetensors", "tail.safetensors"
SECOND_MOMENT = "exp_avg_sq"


class PieceRecorder:
    """Call ``step()`` after every ``optimizer.step()`` and before the schedule's.

    Args:
        model, optimizer: in training; ``SGD`` without dampening, ``Adam`` or ``AdamW`` without amsgrad.
        directory: where the recording goes; one that is there already is given up.
        steps: T, how many optimizer steps training takes in all.
        train_rows: N.
        batch_size: rows of a batch, by which the sum of their losses is divided.
        pieces: into how many equal pieces training is cut.
        tail: the share of the last steps whose weights are averaged for the query; 0 keeps no average.

    Raises:
        OptimizerError: the optimizer can't be unrolled.
        AttributionError: there are no steps, training rows, rows of a batch or pieces, or the tail is no share.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        directory: str | Path,
        *,
        steps: int,
        train_rows: int,
        batch_size: int,
        pieces: int = 24,
        tail: float = 0.5,
    ) -> None:
        check_announced(steps, train_rows, tail)
        for name, number in (("batch_size", batch_size), ("pieces", pieces)):
            if number < 1:
                raise AttributionError(f"{name} is {number}.", "Give 1 at least.")
        self._rule = check_unrollable(optimizer)
        self._model, self._optimizer, self._directory = model, optimizer, Path(directory)
        self._sizes = {"steps": steps, "train_rows": train_rows, "batch_size": batch_size}
        self._starts = sorted({steps * piece // pieces for piece in range(pieces)})
        self._first_tail = first_tail_step(steps, tail) if tail > 0 else steps
        self._groups = group_records(model, optimizer)
        self._rates: list[list[float]] = []
        self._piece, self._tail = RunningMean(), RunningMean()
        # What is there is of another training.
        (self._directory / RECORD_NAME).unlink(missing_ok=True)

    def step(self) -> None:
        """Notes one step.

        Raises:
            AttributionError: training takes more steps than announced.
            OptimizerError: an option other than the learning rate changed.
        """
        done, total = len(self._rates) + 1, self._sizes["steps"]
        check_step(done, total, group_records(self._model, self._optimizer), self._groups)
        self._rates.append([float(group["lr"]) for group in self._optimizer.param_groups])
        state = self._model.state_dict()
        self._piece.add({f"model/{name}": tensor for name, tensor in state.items()} | self._moments())
        if done >= self._first_tail:
            self._tail.add(state)
        if done in self._starts or done == total:
            piece = self._starts.index(done) - 1 if done < total else len(self._starts) - 1
            save_weights(piece_path(self._directory, piece), self._piece.mean())
            self._piece = RunningMean()
        if done == total:
            self._finish()

    def _moments(self) -> dict[str, Tensor]:
        if SECOND_MOMENT not in self._rule.slots:
            return {}
        states = {name: self._optimizer.state.get(p, {}) for name, p in self._model.named_parameters()}
        return {
            f"{SECOND_MOMENT}/{name}": state[SECOND_MOMENT]
            for name, state in states.items()
            if SECOND_MOMENT in state
        }

    def _finish(self) -> None:
        save_weights(self._directory / PIECES_TAIL_NAME, self._tail.mean())
        with write_atomically(self._directory / RATES_NAME) as temporary:
            write_tensors({"rates": torch.tensor(self._rates, dtype=torch.float64)}, temporary)
        record: dict[str, Any] = {
            "optimizer": type(self._optimizer).__name__,
            "groups": self._groups,
            "tail_steps": self._sizes["steps"] - self._first_tail + 1,
            "starts": self._starts,
            **self._sizes,
        }
        with write_atomically(self._directory / RECORD_NAME) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def piece_path(directory: Path, piece: int) -> Path:
    """Where the mean of a piece lies."""
    return directory / f"piece-{piece}.safetensors"


def read_record(directory: Path) -> tuple[dict[str, Any], Tensor]:
    """(what ``pieces.json`` says, learning rates ``[steps, groups]``).

    Raises:
        CheckpointError: the recording is missing or damaged.
    """
    path = directory / RECORD_NAME
    try:
        return json.loads(path.read_text(encoding="utf-8")), load_weights(directory / RATES_NAME)["rates"]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"There is no recording at {path}.", "Record one with PieceRecorder while training."
        ) from error
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}).", "Train again to record it anew.") from error
