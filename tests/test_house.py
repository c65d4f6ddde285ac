"""The structure of the code: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Arrows = dict[str, set[str]]


def modules(package: str) -> dict[str, Path]:
    """Dotted name → file; a package is called by its folder."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if path.stem == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """All that a file imports when it runs, inside functions too; what stands under TYPE_CHECKING is for readers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def arrows(package: str) -> Arrows:
    known = modules(package)

    def target(name: str) -> str | None:
        return next((each for each in (name, name.rpartition(".")[0]) if each in known), None)

    return {
        name: {found for each in imports(path) if (found := target(each)) is not None and found != name}
        for name, path in known.items()
    }


def between_rooms(of_files: Arrows, parent: str) -> Arrows:
    """The arrows between what lies directly in a package; its own `__init__` only hands names on."""

    def room(name: str) -> str | None:
        below = name.removeprefix(parent + ".")
        return f"{parent}.{below.partition('.')[0]}" if name.startswith(parent + ".") else None

    found: Arrows = {}
    for name, targets in of_files.items():
        here = room(name)
        if here is not None:
            found.setdefault(here, set()).update(
                there for each in targets if (there := room(each)) is not None and there != here
            )
    return found


def circle(of: Arrows) -> list[str]:
    """Names that import each other in a circle; empty if none do."""
    done: set[str] = set()
    on_path: list[str] = []

    def visit(name: str) -> list[str]:
        if name in on_path:
            return [*on_path[on_path.index(name) :], name]
        if name in done:
            return []
        on_path.append(name)
        for each in sorted(of.get(name, ())):
            if found := visit(each):
                return found
        done.add(on_path.pop())
        return []

    return next((found for name in sorted(of) if (found := visit(name))), [])


def test_no_file_imports_itself_through_others() -> None:
    assert circle(arrows("pipeline")) == []
    assert circle(arrows("flows")) == []


@pytest.mark.parametrize(
    "parent", ["pipeline", "pipeline.attribution", "pipeline.data", "pipeline.detection", "pipeline.features"]
)
def test_no_rooms_import_each_other(parent: str) -> None:
    assert circle(between_rooms(arrows("pipeline"), parent)) == []


def test_circles_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_the_pipeline_knows_neither_prefect_nor_the_flows() -> None:
    for name, path in modules("pipeline").items():
        for each in imports(path):
            assert each.partition(".")[0] not in ("prefect", "flows", "typer"), name


def test_the_low_rooms_import_no_stage() -> None:
    low = ("text", "runs", "workers", "config", "features", "errors", "seeds")
    stages = ("panel", "detection", "verification", "report", "stages", "export", "scoring", "training")
    for name, targets in arrows("pipeline").items():
        if name.split(".")[1:2] and name.split(".")[1] in low:
            assert not [each for each in targets if each.split(".")[1:] and each.split(".")[1] in stages], (
                name
            )
