from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results import read_results, write_table

ROWS = [
    {"task": "digits, half", "value": 0.1, "n": 3, "met": True, "target": [1, 2.5]},
    {"task": 'a "quoted" one', "value": 2.0, "low": 1e-9},
]


def test_a_table_reads_as_it_was_written_with_a_line_for_each_row(tmp_path: Path) -> None:
    path = write_table("some", ROWS, tmp_path)
    assert len(path.read_text().splitlines()) == 2 + len(ROWS)
    found = read_results("some", tmp_path)
    assert found is not None
    assert found["rows"] == ROWS
    assert [type(value) for value in found["rows"][0].values()] == [str, float, int, bool, list]
    assert {"commit", "date", "machine", "command"} < set(found)


@pytest.mark.parametrize("value", ["3", "true", "", float("nan")])
def test_a_value_that_would_be_read_as_another_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="would not be read"):
        write_table("some", [{"task": value}], tmp_path)
    assert not list(tmp_path.iterdir())
