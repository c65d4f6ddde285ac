"""The encoding of a dataset: all columns of a batch → arrays, with the statistics of the train rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.data.encoders import ENCODERS, Column, Encoder
from pipeline.data.label_sets import LabelSets, is_set
from pipeline.data.labels import ClassLabel, RowWeight, TargetLabel
from pipeline.runs.directory import read_json, write_json

INPUT_BYTES = {"dense": 4, "image": 1, "tokens": 4}
"""Of one number of each kind of input."""
INPUTS = tuple(INPUT_BYTES)
Label = ClassLabel | TargetLabel | LabelSets
LABELS: dict[str, type[ClassLabel] | type[TargetLabel] | type[LabelSets]] = {
    kind.task: kind for kind in (ClassLabel, TargetLabel, LabelSets)
}


class Encoding:
    """Features, label and weight of a dataset, each with its fitted state."""

    def __init__(self, features: Sequence[Encoder], label: Label, weight: RowWeight | None = None):
        self.features = list(features)
        self.label = label
        self.weight = weight

    @classmethod
    def create(cls, columns: Sequence[Column], task: str, label_type: pa.DataType, data: Data) -> Encoding:
        """An encoding that has seen no rows."""
        features = [ENCODERS[column.kind].create(column, data) for column in columns]
        weight = RowWeight(data.weight) if data.weight else None
        of_one = label_type.value_type if is_set(label_type) else label_type
        return cls(features, LABELS[task](data.label, str(of_one)), weight)

    def finish(self) -> None:
        """Fix all statistics. Raises InputError for labels that can't be learnt (see labels.py)."""
        self.label.finish()
        for encoder in self.features:
            encoder.finish()
        if self.weight:
            self.weight.finish()

    @property
    def task(self) -> str:
        return self.label.task

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
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a row of each input that there is: dense (d,), image (C, H, W), tokens (max_tokens,)."""
        shapes = {}
        for name in INPUTS:
            parts = [encoder.shape for encoder in self.features if encoder.input == name]
            if parts:
                shapes[name] = (sum(shape[0] for shape in parts),) if name == "dense" else parts[0]
        return shapes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's inputs."""
        return sum(INPUT_BYTES[name] * math.prod(shape) for name, shape in self.input_shapes.items())

    @property
    def statistics(self) -> dict[str, Any]:
        """image_mean and image_std per channel in 0..1 (train rows); vocabulary_size: token numbers,
        0 and 1 included."""
        facts: dict[str, Any] = {}
        for encoder in self.features:
            state = dataclasses.asdict(encoder)  # type: ignore[call-overload]
            if encoder.input == "image":
                facts |= {"image_mean": state["mean"], "image_std": state["std"]}
            if encoder.input == "tokens":
                facts["vocabulary_size"] = len(state["vocabulary"]) + 2
        return facts

    def encode_inputs(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        """Inputs of all rows: dense float32 [n, d], image uint8 [n, C, H, W], tokens int32 [n, length]."""
        parts: dict[str, list[np.ndarray]] = {}
        for encoder in self.features:
            parts.setdefault(encoder.input, []).append(encoder.encode(batch.column(encoder.column)))
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
            "label": dataclasses.asdict(self.label),
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
            features.append(ENCODERS[kind](**state))
        weight = RowWeight(**tree["weight"]) if tree["weight"] else None
        return cls(features, LABELS[tree["task"]](**tree["label"]), weight)
