"""What every kind of feature is: how a column is recognised, encoded, judged and shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa

from pipeline.features.faults import Fault
from pipeline.features.input import Input, flat

if TYPE_CHECKING:
    from PIL import Image

JudgedAs = Literal["columns", "lists", "pixels", "texts", "lists and texts"]
"""How plain models see a kind: columns of a table, lists of numbers that each mean the same in every row, numbers that
mean something together alone, words."""
ShownAs = Literal["value", "text", "picture", "nothing"]
INPUTS: dict[str, Input] = {}
"""The inputs that the loaded kinds fill, by name."""
MOST_SHARE = 0.05
"""What is odd in more of the rows is the dataset's way and is held against none."""
RESERVED = ("labels", "row_ids", "weights")


class Options(Protocol):
    """What kinds read of the section `data` of the config."""

    @property
    def missing_features(self) -> Literal["error", "impute"]: ...

    @property
    def max_categories(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def image_size(self) -> tuple[int, int] | None: ...

    @property
    def image_root(self) -> str | None: ...

    @property
    def features(self) -> Mapping[str, Any]: ...


def _no_values() -> Iterator[pa.Array]:
    return iter(())


@dataclass(frozen=True)
class Column:
    """A column of the source.

    Attributes:
        name: of the column.
        type: Arrow type without dictionary encoding.
        kind: of the feature; `auto` until it is known.
        of_field: the field's metadata.
        of_file: the schema's metadata.
        coded: whether the source has it dictionary-encoded.
        values: reads it batch by batch from the first file on, without dictionary encoding.
    """

    name: str
    type: pa.DataType
    kind: str = "auto"
    of_field: Mapping[bytes, bytes] = field(default_factory=dict)
    of_file: Mapping[bytes, bytes] = field(default_factory=dict)
    coded: bool = False
    values: Callable[[], Iterator[pa.Array]] = _no_values

    @classmethod
    def of(
        cls, schema: pa.Schema, name: str, values: Callable[[], Iterator[pa.Array]] = _no_values
    ) -> Column:
        """The column of a schema."""
        entry = schema.field(name)
        coded = pa.types.is_dictionary(entry.type)
        kind = entry.type.value_type if coded else entry.type
        return cls(name, kind, "auto", entry.metadata or {}, schema.metadata or {}, coded, values)

    @property
    def names_categories(self) -> bool:
        """Whether the field's metadata name categories that the numbers stand for."""
        return b"categories" in self.of_field


@dataclass(frozen=True)
class Choice:
    """What becomes of a column: a kind of feature, or, when `kind` is None, the reason why it is left out.

    Attributes:
        kind: the word for `data.features`.
        remark: what a person reads beside it.
        size: the larger, the more the column says where only one of its kind can be taken.
        group: whether the column says who may have made wrong labels.
        recipe: the section `model` that suits it, as YAML; None for columns of a table.
        certain: whether it holds whatever other kinds make of the column.
        options: further keys of the section `data`: name → value and what a person reads beside it.
    """

    kind: str | None
    remark: str = ""
    size: float = 0
    group: bool = False
    recipe: str | None = None
    certain: bool = False
    options: Mapping[str, tuple[Any, str]] = field(default_factory=dict)


def _nothing_placed() -> Iterator[tuple[str, pa.Array]]:
    return iter(())


@dataclass(frozen=True)
class Sample:
    """A column as a first look sees it.

    Attributes:
        column: with values from the first file.
        values: some of its values; None for bytes and fixed-size lists, which are not sampled.
        distinct: how many different values the sample has; 0 without one.
        few: reads a few values from all over the files, a few at a time, each with the folder of their file.
    """

    column: Column
    values: pa.Array | None = None
    distinct: int = 0
    few: Callable[[], Iterator[tuple[str, pa.Array]]] = _nothing_placed


class Encoder(ABC):
    """A kind of feature. An instance is a dataclass whose fields are its fitted state, all JSON values.

    Attributes:
        kind: the word in `data.features`: the name of the file in `kinds/`, or the import path of a kind of one's own;
            the registry's word where a section of the config names it.
        input: the input of models that it fills.
        judged_as: how the panel's plain models see it.
        shown_as: how the report shows a cell.
        odd_in: where `marks` looks: at the source's values, at the encoded rows, or nowhere.
        sets_aside: whether rows that it finds `unreadable` are set aside; else they are an error as all faults are.
        column: the name of the column.
    """

    kind: ClassVar[str]
    input: ClassVar[Input]
    judged_as: ClassVar[JudgedAs]
    shown_as: ClassVar[ShownAs] = "value"
    odd_in: ClassVar[Literal["source", "encoded", ""]] = ""
    sets_aside: ClassVar[bool] = False
    column: str

    def __init_subclass__(cls, word: str | None = None) -> None:
        super().__init_subclass__()
        package, _, file = cls.__module__.rpartition(".")
        named = file if package == "pipeline.features.kinds" else f"{cls.__module__}:{cls.__qualname__}"
        cls.kind = named if word is None else word
        if hasattr(cls, "input"):
            known = INPUTS.setdefault(cls.input.name, cls.input)
            if type(known).__qualname__ != type(cls.input).__qualname__ or cls.input.name in RESERVED:
                raise ValueError(f"the input name {cls.input.name!r} of {cls.kind} is taken")

    # How a column is recognised.

    @classmethod
    @abstractmethod
    def supports(cls, kind: pa.DataType) -> bool:
        """Whether it can encode a column of this Arrow type; dictionary types are asked for by their values."""

    @classmethod
    def recognises(cls, column: Column) -> bool:  # noqa: ARG003
        """Whether `auto` takes the column for this kind; at most one kind recognises a column."""
        return False

    @classmethod
    def propose(cls, sample: Sample) -> Choice | None:  # noqa: ARG003
        """What `winnow init` makes of a column; None where it says nothing of it."""
        return None

    @classmethod
    def has_gaps(cls, values: pa.Array) -> bool:  # noqa: ARG003
        """Whether values are missing where missing is not a value of its own."""
        return False

    @classmethod
    def stored_as(cls, column: Column) -> str:  # noqa: ARG003
        """What the metadata say of it, to follow "has": has to be equal in all files. Raises InputError if wrong."""
        return ""

    @classmethod
    @abstractmethod
    def create(cls, column: Column, options: Options) -> Encoder:
        """An encoder that has seen nothing. Raises InputError when the column can't be of this kind."""

    def misfit(self, kind: pa.DataType) -> tuple[str, str] | None:
        """Why the fitted encoder can't take a column of this Arrow type, to follow its name, and what to do."""
        if self.supports(kind):
            return None
        return (
            f"is {kind}, which the run's encoding as {self.kind} can't take",
            "Give the column the type that it has in the train shards.",
        )

    # How it becomes numbers.

    def placed(self, column: pa.Array, folder: str) -> pa.Array:  # noqa: ARG002
        """The column with what it needs of the folder in which its file stands: what is read, encoded and shown."""
        return column

    def hashed(self, column: pa.Array) -> Iterator[pa.Array]:
        """What rows are told apart by, part by part: here the column."""
        yield column

    @abstractmethod
    def update(self, column: pa.Array, train: np.ndarray) -> list[Fault]:
        """Check all rows; learn from those of `train` (bool [rows]) that have no fault."""

    @abstractmethod
    def finish(self) -> None:
        """Fix the state; comes after the last update."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of an encoded row."""

    @abstractmethod
    def encode(self, column: pa.Array) -> np.ndarray:
        """[rows, *shape] of the input's dtype."""

    # How plain models judge it.

    @property
    def read_again(self) -> bool:
        """Whether plain models look at the source's values too."""
        return False

    def plain_numbers(self, part: np.ndarray, source: pa.Array | None) -> np.ndarray:  # noqa: ARG002
        """What plain models see: float32 `[rows, width]`.

        Args:
            part: its part of the encoded rows, `[rows, *shape]`.
            source: the column of these rows; None where `read_again` is false.
        """
        return flat(part)

    # What can't be right.

    def marks(self, values: Any) -> tuple[np.ndarray, ...]:  # noqa: ARG002
        """What `broken` needs of some rows: arrays `[rows, …]`.

        Args:
            values: an Arrow array of the source's, or encoded rows `[rows, *shape]`, by `odd_in`.
        """
        return ()

    def broken(self, *marks: np.ndarray) -> np.ndarray:
        """bool `[train rows]`, from the marks of all of them: the value can't be right, whatever the label."""
        raise NotImplementedError("a kind with `odd_in` defines `broken`")

    # How a cell is shown.

    @classmethod
    def picture(cls, value: pa.Scalar, column: Column, side: int) -> Image.Image | None:  # noqa: ARG003
        """A picture of a cell, of about `side` pixels where it is larger; None where it can't be read.

        It is asked for where `shown_as` is "picture".
        """
        return None

    @classmethod
    def words(cls, value: pa.Scalar) -> str:
        """A cell as text: what is shown where `shown_as` is "text", and judged where `judged_as` is "texts"."""
        return str(value.as_py() or "")
