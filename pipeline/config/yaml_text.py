"""YAML 1.2 as text: reading it, writing it, and writing it with comments.

`yes`, `no`, `on` and `off` are words in YAML 1.2, not switches, and `1e-3` is a number.
"""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, YAMLError
from ruamel.yaml.representer import RoundTripRepresenter, SafeRepresenter
from ruamel.yaml.tokens import CommentToken

__all__ = ["CommentedSection", "YAMLError", "read_yaml", "write_yaml"]

UNUSUAL_BREAKS = "\x85\u2028\u2029"
UNBROKEN = 2**31
"""Columns of a line: none is broken."""


def read_yaml(text: str) -> Any:
    """Plain dicts, lists and values.

    Raises YAMLError (`DuplicateKeyError` for a key that stands twice in a mapping), with the place in `problem_mark`.
    """
    return YAML(typ="safe", pure=True).load(text)


def write_yaml(tree: Any) -> str:
    """Plain dicts, lists and values in their order, so that `read_yaml` gives the same."""
    writer = YAML(typ="safe", pure=True)
    writer.Representer = PlainRepresenter
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # it is None before
    file = io.StringIO()
    writer.dump(tree, file)
    return file.getvalue()


class PlainRepresenter(SafeRepresenter):
    """Of values without comments."""


class CommentedRepresenter(RoundTripRepresenter):
    """Of values with comments."""


def _represent_text(representer: SafeRepresenter, text: str) -> Any:
    """In double quotes where it has breaks of lines that only these escape."""
    style = '"' if any(each in text for each in UNUSUAL_BREAKS) else None
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_none(representer: SafeRepresenter, _: None) -> Any:
    """`null`; the library leaves the place empty."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


for kind in (PlainRepresenter, CommentedRepresenter):
    kind.add_representer(str, _represent_text)
    kind.add_representer(type(None), _represent_none)


class CommentedSection:
    """A mapping that is written with a remark behind each key and comments before it.

    Keys, notes and sections within are given in the order in which they are written.
    """

    def __init__(self, parent: CommentedSection | None = None):
        self._map = CommentedMap()
        self._notes: list[tuple[str, int]] = [] if parent is None else parent._notes
        self._indent: int = 0 if parent is None else parent._indent + 2

    def put(self, key: str, value: Any, remark: str = "", flow: bool = False) -> None:
        """A key with its value. flow: a dict or list stands on the key's line."""
        self._map[key] = _in_flow(value) if flow else value
        self._describe(key, remark)

    def section(self, key: str, remark: str = "") -> CommentedSection:
        """A section below a key, to be filled before the next key."""
        below = CommentedSection(self)
        self._map[key] = below._map
        self._describe(key, remark)
        return below

    def note(self, text: str = "") -> None:
        """A line of comment before what comes next; without text an empty line."""
        self._notes.append((_one_line(text), self._indent))

    def _describe(self, key: str, remark: str) -> None:
        for text, indent in self._notes:
            self._map.yaml_set_comment_before_after_key(key, before=text or "\n", indent=indent)
        self._notes.clear()
        if remark:
            comment = CommentToken(f" # {_one_line(remark)}", CommentMark(0), None)
            self._map.ca.items.setdefault(key, [None, None, None, None])[2] = comment

    def text(self) -> str:
        """The whole as YAML; of the outermost section."""
        writer = YAML()
        writer.Representer = CommentedRepresenter
        writer.indent(mapping=2, sequence=4, offset=2)
        writer.width = UNBROKEN
        file = io.StringIO()
        writer.dump(self._map, file)
        return file.getvalue()


def _in_flow(value: Any) -> Any:
    """The same dict or list, written as {a: 1} or [1]; other values unchanged."""
    if not isinstance(value, dict | list):
        return value
    found = CommentedMap(value) if isinstance(value, dict) else CommentedSeq(value)
    found.fa.set_flow_style()
    return found


def _one_line(text: str) -> str:
    """Without breaks and characters that no comment may have."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
