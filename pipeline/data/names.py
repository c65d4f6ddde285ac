"""What names of files, folders and columns speak of."""

from __future__ import annotations

import re

ROLE_WORDS = {"train": "train", "training": "train"}
ROLE_WORDS |= dict.fromkeys(("valid", "validation", "val", "dev"), "validation")
ROLE_WORDS |= dict.fromkeys(("test", "testing", "holdout", "heldout"), "holdout")


def words(name: str) -> set[str]:
    return set(re.findall("[a-z]+", name.lower()))


def role_word(text: str) -> str | None:
    """The role that a name speaks of: train-00001.parquet, reviews_test.parquet, val."""
    roles = {ROLE_WORDS[word] for word in words(text) if word in ROLE_WORDS}
    return roles.pop() if len(roles) == 1 else None
