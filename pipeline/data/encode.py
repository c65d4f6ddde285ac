"""The encoding of a dataset: all columns of a batch → arrays, with the statistics of the train rows."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.data.labels import RowWeight
from pipeline.features.arrow import is_list
from pipeline.features.encoder import Column, Encoder
from pipeline.features.input import Input
from pipeline.features.registry import find_kind
from pipeline.runs.directory import RunDirectory, read_json, write_json
from pipeline.tasks.classification import ClassLabel
from pipeline.tasks.registry import TASKS
from pipeline.tasks.task import Codec, Task

if TYPE_CHECKING:
    from torch import Tensor

ENCODING = "encoding.json"


class Encoding:
    """Features, label and weight of a dataset, each with its fitted state."""

    def __init__(
        self, features: Sequence[Encoder], target: Task, label: Codec, weight: RowWeight | None = None
    ):
        self.features = list(features)
        self.target = target
        self.label = label
        self.weight = weight

    @classmethod
    def create(cls, columns: Sequence[Column], task: str, label_type: pa.DataType, data: Data) -> Encoding:
        """An encoding that has seen no rows."""
        features = [find_kind(column.kind).create(column, data) for column in columns]
        weight = RowWeight(data.weight) if data.weight else None
        of_one = label_type.value_type if is_list(label_type) else label_type
        label = TASKS[task].codec(data.label, str(of_one))
        if isinstance(label, ClassLabel):
            label.merge = data.merge_spellings
        return cls(features, TASKS[task], label, weight)

    def finish(self) -> None:
        """Fix all statistics. Raises InputError for labels that can't be learnt (see tasks/)."""
        self.label.finish()
        for encoder in self.features:
            encoder.finish()
        for name, kind in self.inputs.items():
            kind.settle(self.filled_by(name))
        if self.weight:
            self.weight.finish()

    @property
    def task(self) -> str:
        """The word in `data.task` for its kind of target."""
        return self.target.name

    @property
    def classes(self) -> list[Any]:
        """Label values in the source's type, sorted; in multi-label the labels there are; empty in regression."""
        return self.label.classes

    @property
    def class_counts(self) -> list[int]:
        """Train rows of each class, or with each label; empty in regression."""
        return self.label.class_counts

    @property
    def outputs(self) -> int:
        """Outputs of a model: one per class or label, or one."""
        return self.label.outputs

    @property
    def inputs(self) -> dict[str, Input]:
        """The inputs that there are, by name, sorted."""
        found = {encoder.input.name: encoder.input for encoder in self.features}
        return {name: found[name] for name in sorted(found)}

    def filled_by(self, name: str) -> list[Encoder]:
        """The features that fill an input, in order."""
        return [encoder for encoder in self.features if encoder.input.name == name]

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a row of each input that there is: dense (d,), image (C, H, W), tokens (length,)."""
        shapes = {}
        for name, kind in self.inputs.items():
            parts = [encoder.shape for encoder in self.filled_by(name)]
            shapes[name] = (sum(shape[0] for shape in parts),) if kind.joins else parts[0]
        return shapes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's inputs."""
        shapes = self.input_shapes
        return sum(
            np.dtype(kind.dtype).itemsize * math.prod(shapes[name]) for name, kind in self.inputs.items()
        )

    @property
    def statistics(self) -> dict[str, Any]:
        """What the inputs say of the train rows: of images `image_mean` and `image_std`, of texts `vocabulary_size`."""
        facts: dict[str, Any] = {}
        for name, kind in self.inputs.items():
            facts |= kind.statistics(self.filled_by(name))
        return facts

    def by_name(self, inputs: Tensor | dict[str, Tensor]) -> dict[str, np.ndarray]:
        """Encoded inputs by name, also where a single one stands without a dict."""
        named = inputs if isinstance(inputs, dict) else {next(iter(self.inputs)): inputs}
        return {name: tensor.numpy() for name, tensor in named.items()}

    def parts(self, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[Encoder, np.ndarray]]:
        """Each feature with its part of encoded inputs, by name."""
        first = dict.fromkeys(inputs, 0)
        for encoder in self.features:
            name, kind = encoder.input.name, encoder.input
            if kind.joins:
                place = slice(first[name], first[name] + encoder.shape[0])
                first[name] = place.stop
                yield encoder, np.ascontiguousarray(inputs[name][:, place])
            else:
                yield encoder, inputs[name]

    def placed(self, batch: pa.RecordBatch, path: str) -> pa.RecordBatch:
        """The batch with what the features need of the folder of their file (`Encoder.placed`).

        Args:
            batch: rows of the file.
            path: of the file.
        """
        folder = os.path.dirname(path)  # noqa: PTH120 (empty where a path is a bare name)
        for encoder in self.features:
            column = batch.column(encoder.column)
            made = encoder.placed(column, folder)
            if made is not column:
                at = batch.schema.get_field_index(encoder.column)
                batch = batch.set_column(at, encoder.column, made)
        return batch

    def encode_inputs(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        """Inputs of all rows by name: dense float32 [n, d], image uint8 [n, C, H, W], tokens int32 [n, length]."""
        parts: dict[str, list[np.ndarray]] = {}
        for encoder in self.features:
            parts.setdefault(encoder.input.name, []).append(encoder.encode(batch.column(encoder.column)))
        return {name: arrays[0] if len(arrays) == 1 else np.hstack(arrays) for name, arrays in parts.items()}

    def encode(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        """Inputs, `labels` (int64 classes, standardised float32 targets or uint8 `[n, labels]`) and, if configured,
        `weights`."""
        arrays = self.encode_inputs(batch)
        arrays["labels"] = self.label.encode(batch.column(self.label.column))
        if self.weight:
            arrays["weights"] = self.weight.encode(batch.column(self.weight.column))
        return arrays

    def decode_labels(self, labels: np.ndarray) -> pa.Array:
        """Class indices or sets → labels in the source's type; standardised targets → float64 in their own unit."""
        return self.label.decode(labels)

    def save(self, path: Path) -> None:
        tree = {
            "task": self.task,
            "label": dataclasses.asdict(self.label),  # type: ignore[call-overload]
            "weight": dataclasses.asdict(self.weight) if self.weight else None,
            "features": [{"kind": encoder.kind} | dataclasses.asdict(encoder) for encoder in self.features],  # type: ignore[call-overload]
            "outputs": self.outputs,
            "input_shapes": self.input_shapes,
        }
        write_json(path, tree)

    @classmethod
    def load(cls, path: Path) -> Encoding:
        tree = read_json(path)
        features = []
        for state in tree["features"]:
            kind = state.pop("kind")
            features.append(find_kind(kind)(**state))
        weight = RowWeight(**tree["weight"]) if tree["weight"] else None
        target = TASKS[tree["task"]]
        return cls(features, target, target.load(tree["label"]), weight)


def features_of(run_path: Path | RunDirectory) -> list[Encoder]:
    """The fitted features of a run."""
    return Encoding.load(run_path / ENCODING).features
