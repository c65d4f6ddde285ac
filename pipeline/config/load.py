"""Reading a config from YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline.config.audit_config import AuditConfig, set_key, validate
from pipeline.config.renamed import rename_keys, tell_once
from pipeline.config.yaml_text import YAMLError, read_yaml
from pipeline.errors import InputError


def load_config(path: str | Path, changes: dict[str, Any] | None = None) -> AuditConfig:
    """Read a YAML config and apply `changes` (dotted keys). Keys of earlier versions mean what they meant.

    A file of the user's own with such a key gets a message. The config in a run directory gets none, because the audit
    wrote it.

    Raises:
        InputError: the file or a key is wrong; the message names both.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file", "`winnow init DATA` writes one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read ({error})", "Give the path of a YAML file.") from None
    try:
        tree = read_yaml(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{path}{place}: {_problem_of(error)}", "Check the sections, the indentation and the quotes."
        ) from None
    if not isinstance(tree, dict):
        raise InputError(
            f"{path}: empty, or not a mapping of sections", "`winnow init DATA` writes a config."
        )
    renamed = rename_keys(tree)
    if not (path.parent / "record.json").exists():
        for old, new, value in renamed:
            tell_once(str(path), old, new, str(value))
    for key, value in (changes or {}).items():
        set_key(tree, key, value)
    return validate(tree, str(path))


def _problem_of(error: YAMLError) -> str:
    """What is wrong with a text that is not taken for YAML."""
    problem = getattr(error, "problem", None) or ""
    twice = re.match(r'found duplicate key "(.*?)" with value "', problem)
    return f"the key `{twice[1]}` stands twice" if twice else "not valid YAML"
