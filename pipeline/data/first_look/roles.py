"""Which files, or which rows of them, are train, validation and holdout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import ROLES
from pipeline.data.files import Shard, SourceFile, matches, open_shards
from pipeline.data.first_look.columns import count_values
from pipeline.data.first_look.proposal import Sources
from pipeline.data.names import role_word
from pipeline.features.arrow import is_string, value_type

MEASURED_MORE = 10_000
"""Below so many rows the noise of the measuring rows is most of the interval of a verdict."""
SPLIT_NAMES = {"split", "subset", "fold", "partition"}


def find_sources(paths: Sequence[str]) -> tuple[Sources, list[Shard]]:
    """Files by role: by the names of folders and files, else by a column, else by fractions."""
    found: dict[str, str | None] = {}
    for pattern in paths:
        root = Path(pattern)
        for path in matches(pattern, "train"):
            named = Path(path).relative_to(root) if root.is_dir() else Path(*Path(path).parts[-2:])
            found[path] = next(filter(None, map(role_word, reversed(named.parts))), None)
    by_role = {role: [path for path, of in found.items() if of == role] for role in ROLES}
    whole = all(by_role.values())
    roles = by_role if whole else {"train": by_role["train"] or list(found)}
    used = [path for files in roles.values() for path in files]
    shards = open_shards([SourceFile(path, None) for path in used])
    split = None if whole else _split_column(shards) or {"fractions": fractions(sum(s.rows for s in shards))}
    untouched = [path for path in found if path not in used]
    in_folders = frozenset() if whole else frozenset(found) - frozenset(paths)
    return Sources(roles, split, untouched, in_folders), shards


def fractions(rows: int) -> list[float]:
    """Shares of the roles in one set of files: of few rows a larger share measures, since that limits the proof."""
    return [0.7, 0.15, 0.15] if rows < MEASURED_MORE else [0.8, 0.1, 0.1]


def _split_column(shards: list[Shard]) -> dict[str, Any] | None:
    """`data.split` for a column whose values are names of roles, one value a role."""
    for field in shards[0].schema:
        if field.name.lower() in SPLIT_NAMES and is_string(value_type(field.type)):
            counts: dict[Any, int] = count_values(shards, field.name, len(ROLES)) or {}
            value_of = {role_word(value or ""): value for value in counts}
            if len(value_of) == len(counts) and "train" in value_of and None not in value_of:
                return {"column": field.name, **{role: value_of[role] for role in ROLES if role in value_of}}
    return None
