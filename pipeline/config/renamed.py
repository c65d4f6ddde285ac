"""Keys of earlier versions: a config or a run that was made before still means what it meant."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pipeline.artifacts import say

RENAMED: Mapping[str, tuple[str, Mapping[Any, Any]]] = {
    "attribution.labels": ("attribution.fisher", {"sampled": "mc"}),
}
"""Dotted key of an earlier version → the present key in the same section, and present words for values that changed."""


def present_key(key: str, value: Any) -> tuple[str, Any]:
    """Return the present key and value for a dotted key, which may be of an earlier version."""
    if key not in RENAMED:
        return key, value
    new, words = RENAMED[key]
    return new, words.get(value, value) if isinstance(value, str) else value


def rename_keys(tree: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Replace the keys of earlier versions in a config's tree, in place.

    A key stays, and is then unknown, where its successor stands beside it.

    Returns:
        The old key, the new key and the new value of each that was replaced.
    """
    found = []
    for old in RENAMED:
        section_name, _, name = old.partition(".")
        section = tree.get(section_name)
        if not isinstance(section, dict) or name not in section:
            continue
        new, value = present_key(old, section[name])
        successor = new.partition(".")[2]
        if successor not in section:
            del section[name]
            section[successor] = value
            found.append((old, new, value))
    return found


@cache
def tell_once(where: str, old: str, new: str, value: str) -> None:
    """Say how a key is called now, once for each place where its old name stands."""
    say("%s: `%s` is called `%s` now; `%s: %s` means the same", where, old, new, new, value)
