"""Columns of text as columns of numbers and booleans, where all of their values are such."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

NO_VALUE = ("NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none", "#N/A", "<NA>", "?")
"""Words for a missing value in a column of numbers or booleans. In a column of text they are text."""
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
WHOLE = r"^\s*[+-]?(0|[1-9]\d{0,18})\s*$"
DECIMAL = r"^\s*[+-]?((0|[1-9]\d*)(MARK\d*)?|MARK\d+)([eE][+-]?\d+)?\s*$|^\s*[+-]?([iI]nf(inity)?)\s*$"
POINT, COMMA = DECIMAL.replace("MARK", r"\."), DECIMAL.replace("MARK", ",")
"""Numbers may not begin with a zero that counts for nothing: 007 is a name."""
THOUSANDS = r"^\s*[+-]?\d{1,3}(,\d{3})+\s*$"
LONG = r"^\s*[+-]?\d{16,}\s*$"
"""So many digits and no point: a float would lose some of them."""


def filled(texts: pa.Array) -> pa.Array:
    """The texts with null for the empty one."""
    return pc.if_else(pc.equal(texts, ""), None, texts)


@dataclass
class Guess:
    """What a column of texts may be, after some blocks of it; `commas`: numbers may have a decimal comma."""

    commas: bool
    seen: bool = False
    sure: bool = False
    """A comma was seen that can't part thousands."""
    words: dict[str, int] = field(default_factory=dict)
    """Words for no value, and how often they occurred."""

    def __post_init__(self) -> None:
        self._may = {"bool", "int64", "point"} | ({"comma"} if self.commas else set())

    @classmethod
    def of(cls, text: str) -> pa.DataType:
        """The type of a single value."""
        guess = cls(commas=False)
        guess.update(pa.array([text]))
        return guess.type

    def update(self, texts: pa.Array) -> None:
        if not self._may:
            return
        values = filled(texts).drop_null()
        missing = pc.is_in(values, pa.array(NO_VALUE))
        for entry in pc.value_counts(values.filter(missing)).to_pylist():
            self.words[entry["values"]] = self.words.get(entry["values"], 0) + entry["counts"]
        values = values.filter(pc.invert(missing))
        if len(values):
            self.seen = True
            self._may = {name for name in self._may if self._fits(name, values)}

    def _fits(self, name: str, values: pa.Array) -> bool:
        if name == "bool":
            return bool(pc.all(pc.is_in(values, pa.array(TRUE + FALSE))).as_py())
        if name == "int64":
            return _all_match(values, WHOLE) and _casts(values, pa.int64())
        if pc.any(pc.match_substring_regex(values, LONG)).as_py():
            return False
        if name == "point":
            return _all_match(values, POINT)
        with_comma = values.filter(pc.match_substring(values, ","))
        self.sure = self.sure or not _all_match(with_comma, THOUSANDS)
        return _all_match(values, COMMA)

    @property
    def type(self) -> pa.DataType:
        """The narrowest type that takes all values; text where nothing else does, or there are none."""
        if not self.seen:
            return pa.string()
        if "bool" in self._may:
            return pa.bool_()
        if "int64" in self._may:
            return pa.int64()
        is_number = "point" in self._may or ("comma" in self._may and self.sure)
        return pa.float64() if is_number else pa.string()


def _all_match(values: pa.Array, pattern: str) -> bool:
    """True of no values."""
    return pc.all(pc.match_substring_regex(values, pattern)).as_py() is not False


def _casts(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        _number(values, kind)
    except pa.ArrowInvalid:
        return False
    return True


def _number(values: pa.Array, kind: pa.DataType) -> pa.Array:
    return pc.replace_substring_regex(pc.utf8_trim_whitespace(values), r"^\+", "").cast(kind)


def typed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """The texts as values of a type that `Guess` has found.

    Args:
        texts: strings; the empty one is null.
        kind: string, bool, int64 or float64.
    """
    values = filled(texts)
    if pa.types.is_string(kind):
        return values
    values = pc.if_else(pc.is_in(values, pa.array(NO_VALUE)), None, values)
    if pa.types.is_boolean(kind):
        return pc.if_else(pc.is_null(values), None, pc.is_in(values, pa.array(TRUE)))
    if pa.types.is_floating(kind):
        values = pc.replace_substring(values, ",", ".")
    return _number(values, kind)
