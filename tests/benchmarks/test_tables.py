"""The tables in docs/measurements/ are made from results and nothing else on the page changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.leaderboard import README, leaderboard, with_leaderboard
from benchmarks.results import RESULTS, read_results
from benchmarks.tables import PAGES, SECTION, rewrite
from pipeline.runs.directory import write_json

HEAD = {"commit": "abc", "date": "2026-01-02", "machine": "a machine", "command": "python -m benchmarks.x"}
PAGE = "# Title\n\n<!-- results: {name} -->\nold\n<!-- end -->\n\nAfter.\n"


def written(tmp_path: Path, name: str, rows: list[dict[str, Any]]) -> str:
    write_json(tmp_path / f"{name}.json", HEAD | {"rows": rows})
    return rewrite(PAGE.format(name=name), tmp_path)


def test_a_section_is_replaced_and_the_rest_of_the_page_kept(tmp_path: Path) -> None:
    row = {"task": "t", "method": "m", "metric": "seconds", "value": 2.5, "low": 2.0, "high": 3.0, "n": 3}
    page = written(tmp_path, "anything", [row])
    assert page.startswith("# Title\n\n<!-- results: anything -->\n")
    assert page.endswith("<!-- end -->\n\nAfter.\n")
    assert "old" not in page
    assert "`python -m benchmarks.x` · 2026-01-02 · commit abc · a machine" in page
    assert "| t | m | seconds | 2.5 | 2 – 3 | 3 |" in page
    assert rewrite(page, tmp_path) == page


def test_a_section_without_results_stays(tmp_path: Path) -> None:
    page = PAGE.format(name="nothing_yet")
    assert rewrite(page, tmp_path) == page


def test_costs_have_units_and_targets(tmp_path: Path) -> None:
    common = {"task": "t", "method": "winnow audit", "n": 1}
    rows = [
        common | {"metric": "wall_seconds", "value": 200.0, "target": 360.0, "met": True},
        common | {"metric": "stage_seconds", "value": 1.25, "stage": "train"},
        common | {"metric": "process_bytes", "value": 300 * 2**20, "process": "Dask worker"},
        common | {"metric": "share_outside_train_attribute_verify", "value": 0.25},
    ]
    page = written(tmp_path, "audit_cost", rows)
    assert "| t | wall seconds | 200.00 s | ≤ 360.00 s |" in page
    assert "| t | stage seconds: train | 1.25 s |  |" in page
    assert "| t | process: Dask worker | 300 MiB |  |" in page
    assert "| t | share outside train attribute verify | 25 % |  |" in page


def test_the_leaderboard_is_as_the_results_and_short() -> None:
    page = README.read_text(encoding="utf-8")
    message = (
        "README.md's leaderboard is not what the results say: python -m benchmarks.tables writes it anew"
    )
    assert with_leaderboard(page, RESULTS) == page, message
    lines = [line for line in leaderboard().splitlines() if line.startswith("| [")]
    assert 0 < len(lines) <= 12
    for line in lines:
        assert re.search(
            r"\| [+-]?[\d.]+ \([+-]?[\d.]+ – [+-]?[\d.]+\) \| `python -m benchmarks\.\w+", line
        ), line


def test_every_section_of_the_pages_has_results() -> None:
    named = {found[3] for page in PAGES for found in SECTION.finditer(page.read_text(encoding="utf-8"))}
    assert {"one_file", "detection", "lds", "speed", "poison"} <= named
    assert [name for name in sorted(named) if read_results(name) is None] == []
