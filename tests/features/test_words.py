"""Words of texts in any script, against what a reader of the script counts."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.features.words import MOST_CHARACTERS, content, count_words, is_unspaced, tokens

LETTERS = "abcXYZéßñ0189_абвГ한국어नमस्ते.,!?'\"&;:-()👍 \t\n"


@given(st.text(LETTERS))
def test_scripts_with_spaces_have_runs_of_letters_and_digits(text) -> None:
    assert tokens(text) == re.findall(r"\w+|[^\w\s]", text.lower())
    assert count_words(text) == len(text.split())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("今天很好。", ["今", "天", "很", "好", "。"]),
        ("東京はabc123", ["東", "京", "は", "abc123"]),
        ("カ\u3099キ", ["カ\u3099", "キ"]),  # a voiced mark belongs to its sign
        ("ที่นี่", ["ที่", "นี่"]),  # so do vowels and tones above the letters
        ("ភាសា", ["ភា", "សា"]),
        ("ດີ", ["ດີ"]),
        ("မာ", ["မာ"]),
        ("\U00020000\U0002a6d7", ["\U00020000", "\U0002a6d7"]),
        ("okay 👍👍", ["okay", "👍", "👍"]),
    ],
)
def test_scripts_without_spaces_have_signs(text, found) -> None:
    assert tokens(text) == found


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("fine<br />film", "fine film"),
        ('<p class="a">one</p><!-- two --> three', "one three"),
        ("<script>var x = 1;</script>seen<STYLE>p {}</style>", "seen"),
        ("<user> said a<b and <3", "<user> said a<b and <3"),  # no elements of HTML
        ("at <time> in <name>", "at <time> in <name>"),
        (None, ""),
    ],
)
def test_tags_are_no_content(text, left) -> None:
    assert " ".join(content(text).split()) == left


def test_words_are_estimated_where_no_spaces_show_them() -> None:
    assert count_words("今天很好") == 2
    assert count_words("今天 okay 很好") == 3
    assert count_words("ภาษาไทย") == 7 / 4
    assert is_unspaced("今天很好 ok")
    assert not is_unspaced("okay 今天")


def test_a_long_text_is_read_to_a_limit() -> None:
    long = "word " * 10_000_000
    begin = time.perf_counter()
    assert len(tokens(long)) == MOST_CHARACTERS // 5
    assert tokens(long, 3) == ["word"] * 3
    assert time.perf_counter() - begin < 2


def test_unclosed_tags_take_time_in_proportion_to_the_text() -> None:
    begin = time.perf_counter()
    for piece in ("<!--", "<script>", "<p ", "<"):
        content(piece * MOST_CHARACTERS)
    assert time.perf_counter() - begin < 5
