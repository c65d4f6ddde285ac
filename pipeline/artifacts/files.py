"""Files and folders below some places."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.attribution.atomic import PARTIAL


def inside(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)


def files_under(places: Iterable[Path]) -> Iterator[Path]:
    """Files and links below some places, sorted, but not what an interrupted write left."""
    for path in places:
        found = [path] if path.is_file() or path.is_symlink() else path.rglob("*")
        for each in sorted(found):
            if (each.is_file() or each.is_symlink()) and each.suffix != PARTIAL:
                yield each


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
