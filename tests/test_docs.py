"""The documentation holds together: links between pages, and the pages and anchors that the code names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.main import get_command

from flows.cli import app

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "data_samples")
PAGES = sorted([*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))])
CODE = sorted(
    path
    for name in ("pipeline", "flows", "benchmarks", "tests", "configs", "data_samples")
    for suffix in ("*.py", "*.j2", "*.yaml", "*.ipynb")
    for path in (ROOT / name).rglob(suffix)
    if "cache" not in path.parts
)
LINK = re.compile(r"\]\(([^()\s]+)\)")
MENTION = re.compile(r"\bdocs/[\w./-]+\.(?:md|png)(?:#[\w-]+)?")
ANYWHERE = re.compile(r"^(?:https?|mailto):")
COMMAND = re.compile(r"^\s*(winnow [a-z].*)$|`(winnow [a-z][^`]*)`", re.MULTILINE)
MODULE = re.compile(r"python -m ((?:benchmarks|flows|data_samples|tests)[\w.]*)")
TARGET = re.compile(r"^\s*make ([a-z]+)|`make ([a-z]+)", re.MULTILINE)
IN_CODE = re.compile(r"`((?:pipeline|flows|benchmarks|tests|docs|configs|data_samples)/[\w./-]*)`")
MADE_BY_USE = ("benchmarks/cache", "benchmarks/data")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page is called, as GitHub makes it of the heading's words."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"\]\([^)]*\)", "", heading)
        name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        again = found.get(name, 0)
        found[name] = again + 1
        names.add(f"{name}-{again}" if again else name)
    return names


def missing(target: str, folder: Path, own: Path) -> bool:
    """Whether a link from a page in the folder leads nowhere."""
    path, _, anchor = target.partition("#")
    page = (folder / path).resolve() if path else own
    return not page.exists() or bool(anchor and anchor not in anchors(page))


def broken_links(page: Path) -> Iterator[str]:
    for target in LINK.findall(prose(page)):
        if not ANYWHERE.match(target) and missing(target, page.parent, page):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_pages_and_anchors(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_pages_that_the_code_names_are_there() -> None:
    named = {
        (str(path.relative_to(ROOT)), mention)
        for path in CODE
        for mention in MENTION.findall(path.read_text(encoding="utf-8"))
    }
    assert named
    assert [each for each in sorted(named) if missing(each[1], ROOT, ROOT)] == []


def test_pages_that_pages_name_without_a_link_are_there() -> None:
    named = {
        (str(page.relative_to(ROOT)), mention) for page in PAGES for mention in MENTION.findall(prose(page))
    }
    assert [each for each in sorted(named) if missing(each[1], ROOT, ROOT)] == []


def test_the_index_leads_to_every_page() -> None:
    docs = ROOT / "docs"
    reached, ahead = set(), [docs / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or docs not in page.parents:
            continue
        reached.add(page)
        if page.name == "README.md":  # an index; other pages mention pages by the way
            targets = (target.partition("#")[0] for target in LINK.findall(prose(page)))
            ahead += [(page.parent / target).resolve() for target in targets if target.endswith(".md")]
    assert reached == set(docs.rglob("*.md"))


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n\n## `two`: three, and four?\n\n[a](#two-three-and-four) [b](#five) [c](other.md) [d](page.md#one)\n"
        "```\n[e](in-code.md)\n```\n[f](https://example.org/g)\n"
    )
    assert list(broken_links(page)) == ["#five", "other.md"]


def options() -> dict[str, set[str]]:
    """The commands of `winnow` with their options."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {each for option in command.params for each in (*option.opts, *option.secondary_opts)}
        for name, command in commands.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_pages_exist(page: Path) -> None:
    text, known = page.read_text(encoding="utf-8"), options()
    for words in (found[0] or found[1] for found in COMMAND.findall(text)):
        _, name, *others = words.partition("#")[0].split()
        name = name.rstrip(".,;:")
        if name == "COMMAND":
            continue
        assert name in known, words
        given = {each.partition("=")[0].rstrip(".,;:") for each in others if each.startswith("--")}
        assert given <= known[name] | {"--verbose"}, words
    for module in MODULE.findall(text):
        assert find_spec(module.rstrip(".")) is not None, module
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (found[0] or found[1] for found in TARGET.findall(text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_project_that_pages_name_are_there(page: Path) -> None:
    named = {
        name for name in IN_CODE.findall(page.read_text(encoding="utf-8")) if not name.startswith(MADE_BY_USE)
    }
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("folder", ["pipeline", "pipeline/attribution"])
def test_contributing_names_every_room(folder: str) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    assert rooms
    assert [room for room in sorted(rooms) if f"| `{room}/` |" not in page] == []
