"""A source that flips more labels than the others: its rate is found, and its rows are doubted more."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipeline.detection.noise.label_flips import estimate_flips, right_label, wrong_label
from pipeline.detection.sources.source_rates import (
    right_label_by_source,
    scaled,
    source_factors,
    telling_source,
)

CLASSES, ROWS = 4, 4000


def drawn(rates: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Chances of given labels `[rows, classes]`, given labels, whether they are wrong, and sources."""
    random = np.random.default_rng(seed)
    logits = 3 * random.standard_normal((ROWS, CLASSES))
    clean = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = np.array([random.choice(CLASSES, p=row) for row in clean])
    sources = random.integers(0, len(rates), ROWS)
    wrong = random.random(ROWS) < np.array(rates)[sources]
    given = np.where(wrong, (right + random.integers(1, CLASSES, ROWS)) % CLASSES, right)
    share = float(np.mean(rates))
    seen = clean * (1 - share) + (1 - clean) * share / (CLASSES - 1)
    return seen, given, wrong, sources


def test_a_bad_source_has_a_multiple_of_the_rate_of_all_rows() -> None:
    seen, given, _, sources = drawn([0.3, 0.04, 0.04, 0.04, 0.04])
    factors = source_factors(seen, given, estimate_flips(seen, given), sources)
    assert factors[0] == pytest.approx(0.3 / 0.092, rel=0.35)
    assert max(factors[each] for each in range(1, 5)) < 1


def test_rows_of_a_bad_source_are_doubted_more_which_ranks_better() -> None:
    seen, given, wrong, sources = drawn([0.3, 0.04, 0.04, 0.04, 0.04])
    flips = estimate_flips(seen, given)
    factors = source_factors(seen, given, flips, sources)
    before = wrong_label(right_label(seen, given, flips), given)
    after = wrong_label(right_label_by_source(seen, given, flips, sources, factors), given)
    assert average_precision_score(wrong, after) > average_precision_score(wrong, before) + 0.01


def test_equal_sources_keep_about_the_rate_of_all() -> None:
    seen, given, _, sources = drawn([0.1] * 5, seed=1)
    factors = source_factors(seen, given, estimate_flips(seen, given), sources)
    assert all(0.6 < factor < 1.5 for factor in factors.values())


def test_the_column_that_tells_most_is_taken() -> None:
    seen, given, _, sources = drawn([0.3, 0.04, 0.04, 0.04, 0.04])
    other = np.random.default_rng(5).integers(0, 3, ROWS)
    flips = estimate_flips(seen, given)
    found = telling_source(seen, given, flips, [("batch", other), ("vendor", sources)])
    assert found is not None
    assert found.column == "vendor"


def test_a_single_source_tells_nothing() -> None:
    seen, given, _, _ = drawn([0.1])
    flips = estimate_flips(seen, given)
    assert telling_source(seen, given, flips, [("shard", np.zeros(ROWS, dtype=np.int64))]) is None


def test_scaled_flips_stay_chances() -> None:
    seen, given, _, _ = drawn([0.3])
    matrix = scaled(estimate_flips(seen, given), 10.0)
    assert matrix.sum(1) == pytest.approx(1)
    assert (matrix >= 0).all()
