"""Wrong labels in one file: as many as stated, of the stated kind and source, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.one_file.configurations import Configuration, make_file
from benchmarks.one_file.noise import OTHER_SOURCES, SOURCES, make_noise
from benchmarks.one_file.sets import SETS, draw

NOWHERE = Path("nowhere")


@pytest.fixture(scope="module")
def digits() -> pa.Table:
    return draw("digits", NOWHERE, 0)[0]


@pytest.fixture(scope="module")
def cancer() -> pa.Table:
    return draw("breast_cancer", NOWHERE, 0)[0]


@pytest.mark.parametrize(
    ("noise", "rate"), [("uniform", 0.05), ("uniform", 0.2), ("pairs", 0.2), ("features", 0.2)]
)
def test_the_stated_share_of_labels_is_wrong(digits: pa.Table, noise: str, rate: float) -> None:
    noisy = make_noise("digits", SETS["digits"], digits, noise, rate, 0)
    assert noisy.wrong.sum() == round(rate * len(digits))
    assert np.array_equal(noisy.wrong, noisy.given.to_numpy() != digits["label"].to_numpy())
    assert noisy.sources is None
    assert make_noise("digits", SETS["digits"], digits, noise, rate, 0).given.equals(noisy.given)
    assert not make_noise("digits", SETS["digits"], digits, noise, rate, 1).given.equals(noisy.given)


def test_pairs_give_the_next_of_many_classes(digits: pa.Table) -> None:
    noisy = make_noise("digits", SETS["digits"], digits, "pairs", 0.2, 0)
    true = digits["label"].to_numpy()
    assert np.array_equal(noisy.given.to_numpy()[noisy.wrong], (true[noisy.wrong] + 1) % 10)


def test_pairs_of_two_classes_flip_a_fifth_of_the_rarer_class_alone(cancer: pa.Table) -> None:
    noisy = make_noise("breast_cancer", SETS["breast_cancer"], cancer, "pairs", 0.2, 0)
    true = cancer["label"].to_numpy()
    counts = np.bincount(true)
    rarer = counts.argmin()
    assert set(true[noisy.wrong]) == {rarer}
    assert noisy.wrong.sum() == round(0.2 * counts[rarer])


def test_one_of_five_sources_is_worse_and_the_others_have_five_per_cent(digits: pa.Table) -> None:
    noisy = make_noise("digits", SETS["digits"], digits, "source", 0.3, 0)
    assert noisy.sources is not None
    assert set(noisy.sources) == set(SOURCES)
    for source in SOURCES:
        mine = noisy.sources == source
        share = 0.3 if source == noisy.bad else OTHER_SOURCES
        assert noisy.wrong[mine].sum() == round(share * mine.sum())


def test_a_decoy_has_sources_that_say_nothing(digits: pa.Table) -> None:
    noisy = make_noise("digits", SETS["digits"], digits, "decoy", 0.1, 0)
    assert noisy.bad is None
    assert noisy.sources is not None
    shares = [noisy.wrong[noisy.sources == source].mean() for source in SOURCES]
    assert noisy.wrong.sum() == round(0.1 * len(digits))
    assert max(shares) < 0.1 + 4 * np.sqrt(0.09 / 250)


def test_targets_are_exchanged_or_those_of_one_source_shifted() -> None:
    values = np.random.RandomState(0).randn(500) * 3
    table, known = pa.table({"label": values}), SETS["uci_concrete"]
    exchanged = make_noise("uci_concrete", known, table, "targets", 0.2, 0)
    assert exchanged.wrong.sum() == 100
    assert sorted(exchanged.given.to_numpy()) == sorted(values)
    shifted = make_noise("uci_concrete", known, table, "shift", 1.0, 0)
    assert shifted.sources is not None
    assert np.array_equal(shifted.wrong, shifted.sources == shifted.bad)
    difference = shifted.given.to_numpy() - values
    assert np.allclose(difference[shifted.wrong], values.std())
    assert not difference[~shifted.wrong].any()


def test_human_labels_are_taken_as_they_are() -> None:
    rows = pa.table({"label": [0, 1, 2], "human_worse": [0, 2, 2]})
    noisy = make_noise("cifar10", SETS["cifar10"], rows, "human_worse", 0.0, 0)
    assert noisy.given.to_pylist() == [0, 2, 2]
    assert noisy.wrong.tolist() == [False, True, False]


def test_the_file_has_features_label_key_and_source_and_nothing_of_the_truth(tmp_path: Path) -> None:
    file = make_file(Configuration("digits", "source", 0.3, 1), NOWHERE, tmp_path)
    written = pq.read_table(file.path)
    assert written.column_names == ["image", "label", "id", "vendor"]
    assert written["label"].combine_chunks().equals(file.noisy.given)
    assert len(set(written["id"].to_pylist())) == len(written)
    test = pq.read_table(file.test_path)
    assert test.column_names == written.column_names
    assert file.test_path not in list(tmp_path.glob("*.parquet"))


def test_no_content_of_the_test_rows_is_in_the_file_and_other_seeds_draw_others() -> None:
    rows, test = draw("digits", NOWHERE, 0)

    def pixels(table: pa.Table) -> set[tuple[int, ...]]:
        return {tuple(row) for row in table["image"].to_pylist()}

    assert not pixels(rows) & pixels(test)
    assert len(rows) + len(test) == 1797
    assert pixels(draw("digits", NOWHERE, 1)[0]) != pixels(rows)
