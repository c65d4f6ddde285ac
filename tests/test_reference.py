"""The pages of docs/reference/ that are made from the code say what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest

from benchmarks.reference import PAGES, signature
from pipeline.config.audit_config import AuditConfig
from pipeline.config.messages import option_names
from pipeline.config.reference import linked, words_of

FOLDER = Path(__file__).parents[1] / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_the_code(name: str) -> None:
    message = (
        f"docs/reference/{name} is not what the code says: python -m benchmarks.reference writes it anew"
    )
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), message


def test_every_key_says_what_it_means() -> None:
    page = (FOLDER / "config.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    sections = [line for line in page.splitlines() if line.startswith("## ")]
    both = 3  # `data.split`, `data.embeddings` and `data.pred_probs` are keys and sections
    assert len(rows) + len(sections) - both == len(option_names(AuditConfig))
    assert [row for row in rows if row.endswith("|  |")] == []


def test_words_of_a_key() -> None:
    assert words_of(Literal["a", "b"]) == "`a`, `b`"
    assert words_of(dict[str, Literal["a"]]) == "`a`"
    assert words_of(bool | Literal["auto"]) == "`true`, `false`, `auto`"
    assert words_of(Literal["auto"] | Annotated[int, "at least 0"]) == "a whole number, `auto`"
    assert words_of(bool) == words_of(str | None) == ""


def test_mentions_of_pages_are_links() -> None:
    assert linked("see docs/reference/rules.md#the-gate.") == "see [the gate](rules.md#the-gate)."
    assert linked("(docs/how-to/own-model.md)") == "([own model](../how-to/own-model.md))"


def test_signatures_are_as_in_the_code() -> None:
    def find(name: str, *others: int, deep: bool = False, by=len) -> list[str] | None: ...

    assert signature(find) == "(name: str, *others: int, deep: bool = False, by=len) -> list[str] | None"
    assert signature(ValueError) == ""
