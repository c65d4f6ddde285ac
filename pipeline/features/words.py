"""Words of texts in any script. Some scripts put no spaces between words: there, every sign is a word of its own."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from itertools import islice

MOST_CHARACTERS = 100_000
"""Only the first so many characters of a text are read."""

_IDEOGRAPHS = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua48c\uf900-\ufaff\uff66-\uff9f\U00016fe0-\U00018cff"
    "\U0001aff0-\U0001b2ff\U00020000-\U0003fffd"
)
"""Signs of Chinese, Japanese, Yi, Tangut, Khitan and Nushu, as ranges of a regular expression."""
_LETTER_BLOCKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0xA9E0, 0xA9FF),  # Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0x11700, 0x1174F),  # Ahom
)
"""Blocks of alphabets without spaces: the class SA of Unicode's rules for breaking lines."""


def _characters(category: str) -> str:
    """The characters of _LETTER_BLOCKS in a general category: L or M."""
    every = (chr(code) for first, last in _LETTER_BLOCKS for code in range(first, last + 1))
    return "".join(character for character in every if unicodedata.category(character).startswith(category))


_LETTERS, _MARKS = _characters("L"), _characters("M") + "\u3099\u309a"
_WORD = rf"[{_IDEOGRAPHS}{_LETTERS}][{_MARKS}]*|[^\W{_IDEOGRAPHS}{_LETTERS}]+"
WORD = re.compile(_WORD)
"""A run of letters and digits, or a sign of a script without spaces, with its marks."""
TOKEN = re.compile(rf"{_WORD}|[^\w\s]")
"""A word or a single punctuation mark."""
_IDEOGRAPH, _LETTER = re.compile(f"[{_IDEOGRAPHS}]"), re.compile(f"[{_LETTERS}]")
_SPACED = re.compile(rf"[^\W{_IDEOGRAPHS}{_LETTERS}]+")
IDEOGRAPHS_PER_WORD, LETTERS_PER_WORD = 2, 4
"""About how many signs a word has, where no spaces show it."""

_ELEMENTS = (
    "a abbr article aside b big blockquote body br button caption center cite col colgroup dd del div dl dt em "
    "figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img ins kbd li link meta nav "
    "noscript ol p pre q s script section small span strike strong style sub sup svg table tbody td tfoot th thead "
    "tr tt u ul wbr"
)
"""Elements of HTML. Those are absent whose names stand in angle brackets for what was left out, such as <time>."""
_TAG = re.compile(rf"<!doctype[^<>]*>|</?(?:{'|'.join(_ELEMENTS.split())})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_BLOCKS = [
    (re.compile(f"{first}.*?{last}", re.IGNORECASE | re.DOTALL), re.compile(last, re.IGNORECASE))
    for first, last in (
        ("<!--", "-->"),
        (r"<script\b[^<>]*>", r"</script\s*>"),
        (r"<style\b[^<>]*>", r"</style\s*>"),
    )
]
"""What is left out from its first to its last tag, and its last tag."""


def content(text: str | None) -> str:
    """The first MOST_CHARACTERS characters of a text, with a space for each tag of HTML; empty for a null."""
    start = (text or "")[:MOST_CHARACTERS]
    if "<" not in start:
        return start
    for block, last in _BLOCKS:
        # behind the last end nothing closes, and looking for it from every beginning would take quadratic time
        end = max((found.end() for found in last.finditer(start)), default=0)
        start = block.sub(" ", start[:end]) + start[end:]
    return _TAG.sub(" ", start)


def tokens(text: str | None, most: int = sys.maxsize) -> list[str]:
    """The first tokens of a text, in lower case."""
    return list(islice(_each_token(text), most))


def _each_token(text: str | None) -> Iterator[str]:
    return (found.group() for found in TOKEN.finditer(content(text).lower()))


def count_words(text: str) -> float:
    """How many words a text has: runs between spaces, and an estimate for scripts without spaces."""
    start = content(text)
    ideographs, letters = len(_IDEOGRAPH.findall(start)), len(_LETTER.findall(start))
    if not ideographs + letters:
        return len(start.split())
    return len(_SPACED.findall(start)) + ideographs / IDEOGRAPHS_PER_WORD + letters / LETTERS_PER_WORD


def is_unspaced(text: str) -> bool:
    """Whether most of a text is in a script without spaces."""
    start = content(text)
    return 2 * (len(_IDEOGRAPH.findall(start)) + len(_LETTER.findall(start))) > len(start)
