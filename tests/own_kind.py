"""A kind of feature of a user's own, found by its import path: sounds, with an input of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipeline.features.encoder import Column, Encoder, JudgedAs, ShownAs
from pipeline.features.faults import Fault, fault_where
from pipeline.features.input import Input


class Waves(Input):
    """float32 `[rows, samples]` in −1 to 1; the built-in mlp takes it."""

    name = "sound"


@dataclass
class Sound(Encoder):
    """Bytes of 16-bit samples; all sounds have the length of the first one."""

    column: str
    samples: int = 0
    input: ClassVar[Input] = Waves()
    judged_as: ClassVar[JudgedAs] = "lists"
    shown_as: ClassVar[ShownAs] = "text"
    odd_in = "source"

    @classmethod
    def supports(cls, kind: pa.DataType) -> bool:
        return bool(pa.types.is_binary(kind))

    @classmethod
    def create(cls, column: Column, options: Any) -> Sound:  # noqa: ARG003
        return cls(column.name)

    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:  # noqa: ARG002
        lengths = np.array([len(value or b"") // 2 for value in column.to_pylist()])
        self.samples = self.samples or int(lengths[0])
        return fault_where(lengths != self.samples, "has another length than the first", "Cut it or drop it.")

    def finish(self) -> None:
        """Nothing is left to fix."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.samples,)

    def encode(self, column: pa.Array) -> np.ndarray:
        return np.stack([waves(value) for value in column.to_pylist()])

    def marks(self, values: pa.Array) -> tuple[np.ndarray, ...]:
        return (np.abs(self.encode(values)).max(1),)

    def broken(self, *marks: np.ndarray) -> np.ndarray:
        """Silence."""
        (loudest,) = marks
        return loudest == 0

    @classmethod
    def words(cls, value: pa.Scalar) -> str:
        heard = waves(value.as_py())
        return f"{len(heard)} samples, the loudest at {np.abs(heard).max():.2f}"


@dataclass
class Unjudged(Sound):
    """A kind that says where to look for broken values, and not what is broken."""

    broken = Encoder.broken


@dataclass
class Half(Encoder):  # type: ignore[misc]  # lacks most of what a kind needs
    column: str


def waves(value: bytes) -> np.ndarray:
    return np.frombuffer(value, dtype="<i2").astype(np.float32) / 2**15
