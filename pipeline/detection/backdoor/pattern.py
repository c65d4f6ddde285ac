"""The interface of patterns, and their form on disk."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from pipeline.detection.backdoor.subject import Inputs, Names


class Pattern(Protocol):
    """A frozen dataclass with arrays and numbers as fields; all methods take rows of the input that `input` names."""

    kind: ClassVar[str]
    input: ClassVar[str]

    def paste(self, rows: np.ndarray) -> np.ndarray:
        """A copy of the rows with the pattern in them."""

    def matches(self, rows: np.ndarray) -> np.ndarray:
        """The rows that carry the pattern, bool `[rows]`."""

    def neutralise(self, rows: np.ndarray, carriers: np.ndarray) -> np.ndarray:
        """A copy of the rows with their content but without the pattern; `carriers` is bool `[rows]`."""

    def describe(self, names: Names) -> str:
        """The pattern in words."""

    def values(self, names: Names) -> dict[str, Any]:
        """The values that the report shows, as JSON."""


Kept = TypeVar("Kept")


def to_tensors(pattern: Any) -> dict[str, np.ndarray]:
    """The fields of a pattern as arrays."""
    return {field.name: np.asarray(getattr(pattern, field.name)) for field in dataclasses.fields(pattern)}


def from_tensors(kind: type[Kept], tensors: dict[str, np.ndarray]) -> Kept:
    """Rebuild a pattern from the arrays of `to_tensors`."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(
        **{f.name: tensors[f.name] if tensors[f.name].ndim else tensors[f.name].item() for f in fields}
    )


def carried_by(pattern: Pattern, inputs: Inputs) -> np.ndarray:
    """The rows that carry a pattern, bool `[rows]`."""
    return pattern.matches(inputs[pattern.input])
