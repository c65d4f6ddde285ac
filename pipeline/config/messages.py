"""What is wrong with a config, in words: the dotted key, and what to do."""

from __future__ import annotations

import difflib
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pipeline.config.sections.fields import plain_type
from pipeline.errors import InputError

Root = type[BaseModel]
OUT_OF_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


def in_words(error: ValidationError, root: Root, where: str) -> InputError:
    """All that is wrong with a tree of values. root: the model that refused it; where: the file, or what it was."""
    by_key = {
        _plain_key(root, problem["loc"]): _describe(root, problem) for problem in reversed(error.errors())
    }
    first, *rest = reversed(by_key.values())  # a union's members complain one by one about the same key
    message = f"{where}: {first[0]}"
    if rest:
        message += "\n" + "\n".join(f"       also: {text}" for text, _ in rest[:4])
    return InputError(message, first[1])


def _describe(root: Root, problem: Any) -> tuple[str, str]:
    """One sentence for a validation problem and one with what to do."""
    key, kind = _plain_key(root, problem["loc"]), problem["type"]
    if kind == "extra_forbidden":
        return f"unknown key `{key}`", _nearest_key(root, key)
    if kind == "missing":
        return f"`{key}` is missing", "Add it; `winnow init DATA` writes a complete config."
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return (f"{key}: {message}" if key else message), "Change the value in the config."
    allowed = "" if kind in OUT_OF_BOUNDS else _allowed_values(root, key)
    message = f"not {allowed}" if allowed else f"{message[0].lower()}{message[1:]}"
    return f"`{key}` is {repr(problem['input'])[:80]}: {message}", "Change the value in the config."


def _plain_key(root: Root, places: tuple[int | str, ...]) -> str:
    """The dotted key of a problem, without what pydantic adds: members of unions and names of functions."""
    kind: Any = root
    kept: list[str] = []
    for place in places:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(place))
            kind = None if field is None else section_of(field.annotation) or field.annotation
        elif get_origin(kind) is dict:
            kind = None
        elif not isinstance(place, int):
            continue
        kept.append(str(place))
    return ".".join(kept)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, also where it may be left out."""
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _allowed_values(root: Root, key: str) -> str:
    """What a key with a union of switches, numbers and words takes, as in `true, false or auto`; else nothing."""
    kind: Any = root
    for part in key.split("."):
        field = (
            kind.model_fields.get(part) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        )
        kind = None if field is None else section_of(field.annotation) or field.annotation
    members = get_args(kind) if get_origin(kind) in (UnionType, Union) else ()
    if not any(get_origin(member) is Literal for member in members):
        return ""
    plain = {bool: ["true", "false"], int: ["a whole number"], float: ["a number"]}
    words = [
        word for member in members for word in plain.get(plain_type(member)) or map(str, get_args(member))
    ]
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _nearest_key(root: Root, key: str) -> str:
    known = option_names(root)
    last = key.rsplit(".", 1)[-1]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6) or [
        name for name in known if difflib.SequenceMatcher(None, name.rsplit(".", 1)[-1], last).ratio() > 0.75
    ]
    return f"Did you mean `{close[0]}`?" if close else "docs/reference/config.md lists all keys."


def option_names(model: Root, prefix: str = "") -> list[str]:
    """Every key of the config, dotted: the whole option surface."""
    names = []
    for name, field in model.model_fields.items():
        nested = section_of(field.annotation)
        names.append(f"{prefix}{name}")
        if nested:
            names += option_names(nested, f"{prefix}{name}.")
    return names
