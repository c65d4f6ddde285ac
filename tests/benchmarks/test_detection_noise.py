"""Planted labels: as many as asked for, of the right kind, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.detection_noise import plant
from benchmarks.detection_tasks import draw_roles, read_rows

ROWS = 400


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    cache = tmp_path_factory.mktemp("rows")
    return draw_roles("digits", read_rows("digits", cache, cache), 0)["train"].slice(0, ROWS)


def test_roles_share_no_row_and_other_seeds_draw_others(tmp_path: pytest.TempPathFactory) -> None:
    rows = read_rows("breast_cancer", tmp_path, tmp_path)  # type: ignore[arg-type]
    roles = draw_roles("breast_cancer", rows, 0)
    keys = [set(table["index"].to_pylist()) for table in roles.values()]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 350 + 100 + 119
    assert set(draw_roles("breast_cancer", rows, 1)["train"]["index"].to_pylist()) != keys[0]


@pytest.mark.parametrize("noise", ["uniform", "pairs", "features"])
def test_as_many_labels_are_wrong_as_asked_for(digits: pa.Table, noise: str) -> None:
    given, wrong = plant("digits", digits, noise, 0.2, 0)
    assert wrong.sum() == 80
    assert np.array_equal(wrong, given.to_numpy() != digits["label"].to_numpy())
    assert plant("digits", digits, noise, 0.2, 0)[0].equals(given)
    assert not plant("digits", digits, noise, 0.2, 1)[0].equals(given)


def test_pairs_give_the_next_class(digits: pa.Table) -> None:
    given, wrong = plant("digits", digits, "pairs", 0.2, 0)
    true = digits["label"].to_numpy()
    assert np.array_equal(given.to_numpy()[wrong], (true[wrong] + 1) % 10)


def test_no_noise_changes_nothing(digits: pa.Table) -> None:
    given, wrong = plant("digits", digits, "none", 0.0, 0)
    assert not wrong.any()
    assert given.to_pylist() == digits["label"].to_pylist()


def test_noise_by_features_takes_what_looks_alike(digits: pa.Table) -> None:
    """A wrong label's own class mean is nearer to the row than for uniform noise."""
    true = digits["label"].to_numpy()
    pixels = digits["image"].combine_chunks().flatten().to_numpy().reshape(ROWS, -1).astype(float)
    means = np.stack([pixels[true == label].mean(0) for label in range(10)])

    def distance(noise: str) -> float:
        given, wrong = plant("digits", digits, noise, 0.2, 0)
        return float(np.linalg.norm(pixels[wrong] - means[given.to_numpy()[wrong]], axis=1).mean())

    assert distance("features") < 0.9 * distance("uniform")


def test_wrong_targets_are_targets_of_other_rows() -> None:
    values = np.random.RandomState(0).randn(100)
    given, wrong = plant("concrete", pa.table({"label": values}), "targets", 0.1, 0)
    assert wrong.sum() == 10
    assert sorted(given.to_numpy()) == sorted(values)
    assert np.array_equal(given.to_numpy()[~wrong], values[~wrong])


def test_human_labels_are_taken_as_they_are() -> None:
    train = pa.table({"label": [0, 1, 2], "human_worse": [0, 2, 2]})
    given, wrong = plant("cifar10", train, "human_worse", 0.0, 0)
    assert given.to_pylist() == [0, 2, 2]
    assert wrong.tolist() == [False, True, False]
