"""What every pattern can do, and how patterns are kept on disk."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from pipeline.detection.backdoor.subject import Inputs, Names


class Pattern(Protocol):
    """A frozen dataclass whose fields are arrays and numbers; all methods take the rows of its own input."""

    kind: ClassVar[str]
    input: ClassVar[str]

    def paste(self, rows: np.ndarray) -> np.ndarray:
        """A copy of the rows with the pattern in them."""

    def matches(self, rows: np.ndarray) -> np.ndarray:
        """bool `[rows]`: which rows carry it."""

    def neutralise(self, rows: np.ndarray, carriers: np.ndarray) -> np.ndarray:
        """A copy of the rows whose content is left but not the pattern; carriers: bool `[rows]`."""

    def describe(self, names: Names) -> str:
        """The pattern in words."""

    def values(self, names: Names) -> dict[str, Any]:
        """What the report shows of it, as JSON."""


Kept = TypeVar("Kept")


def to_tensors(pattern: Any) -> dict[str, np.ndarray]:
    """A pattern's fields as arrays."""
    return {field.name: np.asarray(getattr(pattern, field.name)) for field in dataclasses.fields(pattern)}


def from_tensors(kind: type[Kept], tensors: dict[str, np.ndarray]) -> Kept:
    """The pattern that `to_tensors` took apart."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(
        **{f.name: tensors[f.name] if tensors[f.name].ndim else tensors[f.name].item() for f in fields}
    )


def carried_by(pattern: Pattern, inputs: Inputs) -> np.ndarray:
    """bool `[rows]`."""
    return pattern.matches(inputs[pattern.input])
