"""The project as a user has it: built, and installed beside what it names as its dependencies and nothing else.

Dependencies are not downloaded. Each environment gets links to those of the development environment that the wheel's
own metadata asks for, directly and indirectly, so that one which is not named is not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "pipeline", "flows")


def build(folder: Path) -> Path:
    """Run `python -m build` on a copy of the sources, which leaves no build folders beside them; the folder with the
    sdist and the wheel that was made from it."""
    source, products = folder / "source", folder / "dist"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    checked([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(products), str(source)])
    return products


def install(wheel: Path, extras: str, folder: Path) -> Path:
    """Make a virtual environment with the wheel in it; `extras` as in `[flows]`. Gives the folder of its programs."""
    venv.create(folder, with_pip=False)
    packages, links = site_packages(folder), folder / "dependencies"
    links.mkdir()
    (packages / "dependencies.pth").write_text(f"{links}\n")
    for dependency in dependencies(wheel, extras):
        link(dependency, links)
    pip = [sys.executable, "-m", "pip", "--isolated", "--python", str(folder / "bin/python"), "--quiet"]
    # It refuses where a dependency is not there in a version that the wheel asks for.
    checked([*pip, "install", "--no-index", f"{wheel}{extras}"])
    return folder / "bin"


def site_packages(environment: Path) -> Path:
    (found,) = environment.glob("lib/python*/site-packages")
    return found


def dependencies(wheel: Path, extras: str) -> list[metadata.Distribution]:
    """What the wheel asks for, and what that asks for, as they are installed in the environment of the tests."""
    (unpacked,) = metadata.distributions(path=[str(wheel)])
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()

    def visit(distribution: metadata.Distribution, wanted: set[str]) -> None:
        for requirement in map(Requirement, distribution.requires or []):
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in {"", *wanted}):
                continue
            name = canonicalize_name(requirement.name)
            found[name] = metadata.distribution(name)
            new = {extra for extra in {"", *requirement.extras} if (name, extra) not in seen}
            if new:
                seen.update((name, extra) for extra in new)
                visit(found[name], new)

    visit(unpacked, set(Requirement(f"winnow{extras}").extras))
    return list(found.values())


def link(distribution: metadata.Distribution, folder: Path) -> None:
    """Make the distribution importable from `folder`, with its metadata."""
    names = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
    for name in names:
        if not (folder / name).exists():
            (folder / name).symlink_to(str(distribution.locate_file(name)))


def run(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder` as a user would, without the paths of the tests' own environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PREFECT"))}
    return subprocess.run(
        arguments,
        cwd=folder,
        env=kept | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def checked(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
