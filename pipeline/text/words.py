"""Formats numbers and names for people: percentages, changes, durations, sizes, plain text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
MINUS = "−"


def count(number: int) -> str:
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def rows(number: int) -> str:
    return plural(number, "row")


def percent(share: float, digits: int = 1) -> str:
    """`0.0581` → `5.8 %`."""
    return f"{100 * share:.{digits}f} %"


def number(value: float) -> str:
    """Three significant digits, including trailing zeros, and a true minus sign: `−0.0200`, `2.10e−05`."""
    return f"{value:#.3g}".rstrip(".").replace("-", MINUS) if value else "0"


def signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)


def interval(found: Mapping[str, float]) -> str:
    """`0.62 (0.45 – 0.73)`, of a figure's `value`, `low` and `high`."""
    value, low, high = (f"{found[end]:.2f}".replace("-", MINUS) for end in ("value", "low", "high"))
    return f"{value} ({low} – {high})"


def _is_share(name: str) -> bool:
    """Whether a metric is a share of rows, which is written in percent."""
    return "accuracy" in name


def metric(name: str) -> str:
    """A metric's name in running text: `R²`, `balanced accuracy`."""
    if name == "f1":
        return "mean F1 of the rows’ labels"
    return "R²" if name == "r2" else name.replace("_", " ")


def level(value: float, name: str) -> str:
    """A metric's value: `83.1 %` for shares, `0.812` for others."""
    return percent(value) if _is_share(name) else f"{value:.3f}".replace("-", MINUS)


def changes(values: Sequence[float], name: str) -> list[str]:
    """Changes of a metric, in percentage points for shares, with enough digits that no change but 0 reads as zero."""
    scaled = [100 * value if _is_share(name) else value for value in values]
    digits = 1 if _is_share(name) else 3
    while digits < 5 and any(value and round(value, digits) == 0 for value in scaled):
        digits += 1
    return [signed(value, digits) for value in scaled]


def duration(seconds: float) -> str:
    """`3 s`, `2m 04s`, `1h 02m`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def size(number_of_bytes: float) -> str:
    """`1.1 GB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if number_of_bytes < 1000:
            return f"{number_of_bytes:.{0 if unit == 'B' else 1}f} {unit}"
        number_of_bytes /= 1000
    return f"{number_of_bytes:.1f} TB"


def shorten(text: str, length: int) -> str:
    """At most `length` characters, without control characters and marks that change the text's direction."""
    text = CONTROL.sub(" ", text[: 2 * length])
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def label(value: Any, names: dict[Any, str] | None = None) -> str:
    """A label for display.

    This is the class name if `names` has one, a number with four significant digits, all labels of a set, or the text.
    """
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return shorten(", ".join(str(each) for each in value), 60)
    if names and value in names:
        return shorten(names[value], 60)
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", MINUS) if math.isfinite(value) else str(value)
    return shorten(str(value), 60)
