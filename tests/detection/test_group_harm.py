"""Harm to classes and slices, and spurious rows, on digits with a mark that train alone ties to a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from digits_run import digits_config, run_until
from spurious_run import LABEL, write_marked_digits

from pipeline.detection.group_harm import four_parts, spurious_share, tied_rows
from pipeline.runs.directory import RunDirectory
from pipeline.scoring.groups import Groups, RowGroup


@pytest.fixture(scope="module")
def marked_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marked")
    write_marked_digits(folder)
    roles = {f"data__{role}": str(folder / role) for role in ("train", "validation", "holdout")}
    settings = {"training__epochs": 15, "detection__halves": False, "detection__backdoors": False}
    run_until(digits_config(data__slices="mark", **roles, **settings), folder / "run", "detect")
    return folder / "run"


def harm_of(run: Path) -> tuple[list[dict], np.ndarray, np.ndarray]:
    groups = RunDirectory(run).facts("attribute")["groups"]
    tables = [pq.read_table(path) for path in sorted((run / "scores").glob("*.parquet"))]
    harm = np.concatenate([np.array(table["group_harm"].to_pylist()) for table in tables])
    return groups, harm, np.concatenate([table["validation_harm"].to_numpy() for table in tables])


def test_the_groups_of_a_partition_average_to_the_validation_harm(marked_run: Path) -> None:
    groups, harm, of_all = harm_of(marked_run)
    for column in (None, 0):
        label_free = [
            p for p, g in enumerate(groups) if g["column"] == column and None in (g["label"], g["value"])
        ]
        rows = np.array([groups[place]["rows"] for place in label_free])
        assert rows.sum() == 297
        np.testing.assert_allclose(harm[:, label_free] @ rows / 297, of_all, atol=1e-4 * np.abs(of_all).max())


def test_the_worst_group_is_the_largest_over_classes_and_slices(marked_run: Path) -> None:
    groups, harm, _ = harm_of(marked_run)
    whole = [p for p, g in enumerate(groups) if None in (g["label"], g["value"])]
    signal = pq.read_table(marked_run / "signals.parquet")["worst_group_harm"].to_numpy()
    np.testing.assert_allclose(signal, harm[:, whole].max(1))
    assert "worst_group_harm" not in RunDirectory(marked_run).facts("detect")["signals"]


def test_marked_rows_of_the_label_are_found_and_hardly_any_others(marked_run: Path) -> None:
    rows = pq.read_table(
        marked_run / "rows.parquet", columns=["shard", "row", "label", "decision", "reasons"]
    )
    marks = pq.read_table(rows["shard"][0].as_py())["mark"].to_numpy()[rows["row"].to_numpy()]
    planted = (rows["label"].to_numpy() == LABEL) & (marks == "yes")
    found = np.array(["spurious" in reasons for reasons in rows["reasons"].to_pylist()])
    assert planted.sum() > 40
    assert found[planted].mean() > 0.6
    assert planted[found].mean() > 0.9
    assert found[~planted].mean() < 0.01


def test_four_parts_are_means_over_disjoint_validation_rows() -> None:
    cells = [RowGroup(0, value, label, rows) for (value, label), rows in CELL_ROWS.items()]
    classes = [
        RowGroup(None, None, label, sum(r for (_, y), r in CELL_ROWS.items() if y == label))
        for label in range(3)
    ]
    slices = [
        RowGroup(0, value, None, sum(r for (v, _), r in CELL_ROWS.items() if v == value))
        for value in range(2)
    ]
    groups = Groups([*classes, *slices, *cells], [""] * 11, cells)
    of_cells = np.random.default_rng(0).normal(size=(4, 6))
    harm = of_cells @ groups.shares().T
    parts = four_parts(groups, (0, 1, 2), harm)
    weights = np.array(list(CELL_ROWS.values()))
    chosen = ([5], [2], [3, 4], [0, 1])
    expected = [
        of_cells[:, places] @ weights[places] / weights[places].sum() for places in map(np.array, chosen)
    ]
    np.testing.assert_allclose(parts, expected)
    codes, labels = np.full(4, 1), np.full(4, 2)
    own, _, others, elsewhere = expected
    share = (others - elsewhere) / np.abs(expected).sum(0)
    np.testing.assert_allclose(
        spurious_share(groups, 0, harm, labels, codes), np.where((own < 0) & (others > 0), share, -1)
    )


CELL_ROWS = {(0, 0): 12, (0, 1): 30, (0, 2): 11, (1, 0): 17, (1, 1): 10, (1, 2): 20}


def test_a_part_with_few_validation_rows_judges_nobody() -> None:
    cells = [RowGroup(0, 0, 0, 9), RowGroup(0, 0, 1, 20), RowGroup(0, 1, 0, 20), RowGroup(0, 1, 1, 20)]
    classes, slices = (
        [RowGroup(None, None, 0, 29), RowGroup(None, None, 1, 40)],
        [RowGroup(0, 0, None, 29), RowGroup(0, 1, None, 40)],
    )
    groups = Groups([*classes, *slices, *cells], [""] * 8, cells)
    assert four_parts(groups, (0, 0, 0), np.ones((1, 8))) is None
    assert four_parts(groups, (0, 1, 1), np.ones((1, 8))) is None


def test_a_slice_is_tied_to_a_label_where_train_says_so_and_validation_does_not() -> None:
    cells = [RowGroup(0, value, label, 50) for value in range(2) for label in range(2)]
    classes = [RowGroup(None, None, label, 100) for label in range(2)]
    slices = [RowGroup(0, value, None, 100) for value in range(2)]
    groups = Groups([*classes, *slices, *cells], [""] * 8, cells)
    planted = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [90, 10, 210, 290], axis=0)
    codes, labels = planted.T
    np.testing.assert_array_equal(tied_rows(groups, 0, labels, codes), (codes == 1) & (labels == 1))
    fair = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [52, 48, 245, 255], axis=0)
    assert not tied_rows(groups, 0, fair[:, 1], fair[:, 0]).any()


def test_a_slice_that_goes_with_a_label_in_validation_too_is_not_tied() -> None:
    counts = {(0, 0): 80, (0, 1): 20, (1, 0): 20, (1, 1): 80}
    cells = [RowGroup(0, value, label, rows) for (value, label), rows in counts.items()]
    classes = [RowGroup(None, None, label, 100) for label in range(2)]
    slices = [RowGroup(0, value, None, 100) for value in range(2)]
    groups = Groups([*classes, *slices, *cells], [""] * 8, cells)
    codes, labels = np.repeat(list(counts), [4 * rows for rows in counts.values()], axis=0).T
    assert not tied_rows(groups, 0, labels, codes).any()
