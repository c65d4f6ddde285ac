"""The page docs/reference/config.md, made from the fields of the config: their keys, defaults and descriptions."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from pipeline.config.audit_config import AuditConfig
from pipeline.config.messages import section_of
from pipeline.config.sections.fields import parse_bytes, plain_type

PAGE = "docs/reference/config.md"
HEAD = """\
# The config

A config is a YAML file with one section per stage. `winnow init DATA` writes one with comments, and
`winnow check CONFIG` tries it. Only `name` and `data` (`train`, `features`, `label`) have no default. An unknown key is
an error that names the nearest known one. `--set section.key=value` changes a key for one run. `config.yaml` in the run
directory has the complete config, with all defaults filled in.

Sizes are written `512 MiB` or `2 GiB`. Where a key names columns or files, a list with one element may be written
without brackets. [What a feature becomes](features.md) says what the kinds of `data.features` are.

This page is made from the fields in `pipeline/config/sections/` by `python -m benchmarks.reference`.
"""
MENTION = re.compile(r"docs/[\w./-]+\.md(?:#[\w-]+)?")
LARGEST_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def render() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_tables(AuditConfig, "")]) + "\n"


def _tables(section: type[BaseModel], prefix: str) -> Iterator[str]:
    """A table of the section's own keys, then one of each section below it under a heading of its own."""
    nested = {}
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if below is not None:
            nested[name] = below
        if below is None or field.description:
            lines.append(f"| `{name}` | {_default_of(field)} | {_meaning_of(field)} |")
    yield "\n".join(lines) + "\n"
    for name, below in nested.items():
        key = f"{prefix}{name}"
        yield f"## `{key}`\n\n{linked(inspect.cleandoc(below.__doc__ or ''))}\n"
        yield from _tables(below, f"{key}.")


def _default_of(field: FieldInfo) -> str:
    """As it is written in YAML; a dash where there is none."""
    if field.is_required():
        return "**needed**"
    value = field.default
    if value is None:
        return "—"
    if _holds_bytes(field):
        unit, size = next((unit, size) for unit, size in LARGEST_UNITS if value % size == 0)
        return f"{value // size} {unit}"
    return value if isinstance(value, str) else f"`{json.dumps(value)}`"


def _holds_bytes(field: FieldInfo) -> bool:
    """Whether the field is a size in bytes."""
    return any(isinstance(each, BeforeValidator) and each.func is parse_bytes for each in field.metadata)


def _meaning_of(field: FieldInfo) -> str:
    """The description, then the words that the key takes."""
    return linked(" — ".join(each for each in (field.description or "", words_of(field.annotation)) if each))


def words_of(annotation: Any) -> str:
    """The members of all Literals in an annotation, with what else it takes where one of several kinds is a Literal."""
    words = list(_literals(annotation))
    kinds = get_args(annotation) if get_origin(annotation) in (UnionType, Union) else ()
    plain = {bool: "`true`, `false`", int: "a whole number", float: "a number"}
    others = [word for kind in kinds if (word := plain.get(plain_type(kind)))]
    return ", ".join([*others, *(f"`{word}`" for word in words)]) if words else ""


def _literals(annotation: Any) -> Iterator[str]:
    """The members of all Literals in an annotation."""
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for kind in get_args(annotation):
            yield from _literals(kind)


def linked(text: str) -> str:
    """Text whose mentions of pages, as in docs/reference/rules.md, are links from this page."""

    def link(found: re.Match[str]) -> str:
        page, _, anchor = found[0].partition("#")
        target = os.path.relpath(page, os.path.dirname(PAGE))  # noqa: PTH120 - a path in the repository, not a file
        name = (anchor or page.rpartition("/")[2].removesuffix(".md")).replace("-", " ")
        return f"[{name}]({target}{'#' + anchor if anchor else ''})"

    return MENTION.sub(link, text)
