"""Reading a config from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.config.schema import AuditConfig, set_key, validate
from pipeline.errors import InputError


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice in a mapping is an error, not a silent replacement."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key}` stands twice", node.value[place][0].start_mark
                )
        return super().construct_mapping(node, deep)


def load_config(path: str | Path, changes: dict[str, Any] | None = None) -> AuditConfig:
    """Read a YAML config and apply `changes` (dotted keys).

    Raises InputError that names the file and the key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file", "`winnow init DATA` writes one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read ({error})", "Give the path of a YAML file.") from None
    try:
        tree = yaml.load(text, UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        if "stands twice" not in problem:
            problem = "not valid YAML"
        raise InputError(
            f"{path}{place}: {problem}", "Check the sections, the indentation and the quotes."
        ) from None
    if not isinstance(tree, dict):
        raise InputError(
            f"{path}: empty, or not a mapping of sections", "`winnow init DATA` writes a config."
        )
    for key, value in (changes or {}).items():
        set_key(tree, key, value)
    return validate(tree, str(path))
