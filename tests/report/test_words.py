from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text import words


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (48, "48 s"), (59.7, "1m 00s"), (124, "2m 04s"), (3720, "1h 02m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(999, "999 B"), (1_100_000_000, "1.1 GB"), (3e12, "3.0 TB"), (5e15, "5000.0 TB")]
)
def test_sizes(number: float, text: str) -> None:
    assert words.size(number) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.02, "−0.0200"),
        (-0.0198, "−0.0198"),
        (0.0, "0"),
        (100.0, "100"),
        (1.5, "1.50"),
        (2.1e-5, "2.10e−05"),
    ],
)
def test_numbers_under_each_other_have_as_many_digits(value: float, text: str) -> None:
    assert words.number(value) == text


def test_a_bound_that_is_not_zero_does_not_read_as_zero() -> None:
    assert words.changes([0.018, 0.0001, 0.03], "accuracy") == ["+1.80", "+0.01", "+3.00"]
    assert words.changes([0.02, -0.0004, 0.03], "r2") == ["+0.0200", "−0.0004", "+0.0300"]
    assert words.changes([0.0, 0.018], "accuracy") == ["+0.0", "+1.8"]


@given(st.text(max_size=400), st.integers(1, 50))
def test_shortened_text_is_short_and_can_not_turn_the_direction(text: str, length: int) -> None:
    short = words.shorten(text, length)
    assert len(short) <= length
    assert not any(mark in short for mark in "\u202e\u202d\u2066\u0000\u001b")


def test_labels_use_class_names_and_few_digits() -> None:
    assert words.label(1, {1: "Trouser"}) == "Trouser"
    assert words.label(2, {1: "Trouser"}) == "2"
    assert words.label(-12.34567) == "−12.35"
    assert words.label(None) == "none"
