from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.detection.columns import StoredColumn, slices


@pytest.mark.parametrize("size", [1, 3, 10])
def test_a_column_reads_as_the_array_that_was_written(tmp_path: Path, size: int) -> None:
    values = np.random.default_rng(0).normal(size=10)
    column = StoredColumn.write(tmp_path / "folder/column", 10, [values[place] for place in slices(10, size)])
    assert len(column) == 10
    np.testing.assert_array_equal(np.asarray(column), values)
    for place in (slice(2, 7), slice(None), slice(8, 20), slice(4, 4)):
        np.testing.assert_array_equal(column[place], values[place])


def test_too_few_rows_leave_no_column(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 rows were given for a column of 5"):
        StoredColumn.write(tmp_path / "column", 5, [np.zeros(4)])
    assert not list(tmp_path.iterdir())


def test_slices_cover_all_rows_once() -> None:
    assert np.concatenate([np.arange(10)[place] for place in slices(10, 4)]).tolist() == list(range(10))
    assert [place.stop - place.start for place in slices(10, 4)] == [4, 4, 2]
