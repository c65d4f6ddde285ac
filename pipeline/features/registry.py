"""The kinds of features by their words. This file loads none of them until it is asked for one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.features.encoder import Encoder
    from pipeline.features.input import Input

HINT = "docs/reference/features.md#a-kind-of-your-own says what it needs; Encoder is in `pipeline.features.encoder`."
KINDS = "pipeline.features.kinds"
WORDS = tuple(sorted(module.name for module in iter_modules([str(Path(__file__).with_name("kinds"))])))
"""The kinds that `data.features` can name by a word: the files in `kinds/`."""
PRETRAINED = {
    "encoded text": "pipeline.features.pretrained.kinds:EncodedText",
    "finetuned text": "pipeline.features.pretrained.finetuned:FinetunedText",
    "encoded image": "pipeline.features.pretrained.kinds:EncodedImage",
}
"""The kinds that a section of `data.features` with an `encoder` names."""


def is_kind(word: str) -> bool:
    """Whether `data.features` takes it: `auto`, a known word, or the import path of a kind of one's own."""
    return word == "auto" or word in WORDS or is_import_path(word)


def is_import_path(word: str) -> bool:
    """Whether it looks like `package.module:name`."""
    module, colon, name = word.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])


def import_path(word: str, key: str) -> Any:
    """What stands at `package.module:name`; the working directory is importable.

    Args:
        word: the path.
        key: of the config, for errors.

    Raises:
        InputError: it can't be imported.
    """
    module, _, name = word.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # whatever the user's module raises
        raise InputError(
            f"{key}: {word} can't be imported ({type(error).__name__}: {error})",
            "Check the path; modules are looked for in the working directory and in the environment.",
        ) from error


@cache
def find_kind(word: str) -> type[Encoder]:
    """The encoder of a kind.

    Args:
        word: one of WORDS or of PRETRAINED, or `package.module:Class`; the working directory is importable.

    Raises:
        InputError: the path can't be imported, or is no encoder.
    """
    if word in PRETRAINED:
        return import_path(PRETRAINED[word], "data.features")
    if word in WORDS:
        return _encoder_in(import_module(f"{KINDS}.{word}"), word)
    found = import_path(word, "data.features")
    lacks = _what_lacks(found)
    if lacks:
        raise InputError(f"data.features: {word} is no kind of feature: it {lacks}", HINT)
    return found


def _what_lacks(found: object) -> str:
    """What an object of one's own lacks of a kind of feature, to follow "it"; empty where it is one."""
    from pipeline.features.encoder import Encoder

    if not (isinstance(found, type) and issubclass(found, Encoder)):
        return "does not derive from Encoder"
    absent = [
        *sorted(found.__abstractmethods__),
        *(n for n in ("input", "judged_as") if not hasattr(found, n)),
    ]
    if absent:
        return f"has no {', '.join(absent)}"
    if found.odd_in and found.broken is Encoder.broken:
        return "has odd_in without broken"
    return "" if is_dataclass(found) else "is no dataclass"


def _encoder_in(module: object, word: str) -> type[Encoder]:
    """The encoder that a file of `kinds/` defines; one that it imports from another file is of another kind."""
    from pipeline.features.encoder import Encoder

    return next(
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Encoder) and getattr(each, "kind", "") == word
    )


def built_in() -> dict[str, type[Encoder]]:
    """All kinds that have a word."""
    return {word: find_kind(word) for word in WORDS}


def inputs() -> Mapping[str, Input]:
    """The inputs of a model that the loaded kinds fill, by name."""
    from pipeline.features.encoder import INPUTS

    built_in()
    return INPUTS


def find_input(name: str) -> Input:
    """The input of a model of this name."""
    return inputs()[name]
