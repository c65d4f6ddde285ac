"""Who made the wrong labels: simulated sources whose shares of wrong labels are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.detection.sources.suspect_sources import (
    FEWEST_ROWS,
    Opinions,
    SourceColumn,
    class_opinions,
    find_sources,
    set_opinions,
    strata_of,
    target_opinions,
    with_own_classes,
)

NAMES = list("abcde")


def simulate(
    rng: np.random.Generator,
    rows: int,
    shares: np.ndarray,
    classes: int = 2,
    mistakes: float = 0.15,
    seen: bool = False,
    priors: np.ndarray | None = None,
    ease: np.ndarray | None = None,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(The lines of five sources, the true share of wrong labels of each).

    mistakes: of the judges on right labels; seen: they know the sources' shares; priors: each source's classes; ease:
    factors of each source's distance from the boundary.
    """
    source = rng.integers(5, size=rows)
    chances = np.full((5, classes), 1 / classes) if priors is None else priors
    truth = (rng.random(rows)[:, None] > chances.cumsum(1)[source][:, :-1]).sum(1)
    noise = rng.normal(size=(4000, classes))
    margin = np.quantile(noise[:, 1:].max(1) - noise[:, 0], 1 - mistakes)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), truth] += margin * (1 if ease is None else ease[source])
    odds = np.exp(margin * logits)
    probabilities = odds / odds.sum(1, keepdims=True)
    wrong = rng.random(rows) < shares[source]
    given = np.where(wrong, (truth + rng.integers(1, classes, size=rows)) % classes, truth)
    if seen:
        share = shares[source][:, None]
        probabilities = (1 - share) * probabilities + share * (1 - probabilities) / (classes - 1)
    overall = {"value": wrong.mean(), "low": max(0.0, wrong.mean() - 0.02), "high": wrong.mean() + 0.02}
    lines = find_sources(
        [SourceColumn("vendor", source, NAMES, seen=seen)],
        class_opinions(probabilities, given),
        np.zeros(rows, dtype=bool),
        overall,
    )
    return lines, {name: wrong[source == place].mean() for place, name in enumerate(NAMES)}


def skewed(rng: np.random.Generator, classes: int) -> np.ndarray:
    return rng.dirichlet(np.full(classes, 2.0), 5)


@pytest.mark.parametrize(
    ("rows", "classes", "mistakes"),
    [(3000, 2, 0.05), (3000, 2, 0.25), (3000, 6, 0.25), (1000, 6, 0.15), (1000, 2, 0.05)],
)
@pytest.mark.parametrize("seen", [False, True])
def test_a_bad_source_is_named_first_and_its_share_estimated(
    rows: int, classes: int, mistakes: float, seen: bool
) -> None:
    rng = np.random.default_rng(rows + classes)
    first = held = 0
    errors = []
    for _ in range(20):
        shares = rng.uniform(0, 0.08, 5)
        bad = int(rng.integers(5))
        shares[bad] = 0.3
        lines, truth = simulate(rng, rows, shares, classes, mistakes, seen)
        first += lines[0]["named"] and lines[0]["value"] == NAMES[bad]
        (line,) = (line for line in lines if line["value"] == NAMES[bad])
        held += line["wrong_share"]["low"] <= truth[NAMES[bad]] <= line["wrong_share"]["high"]
        errors.append(line["wrong_share"]["value"] - truth[NAMES[bad]])
        assert line["others_share"] < 0.1
    assert first >= 19
    assert held >= 18
    assert abs(np.mean(errors)) < 0.03


@pytest.mark.parametrize("rows", [1000, 3000])
@pytest.mark.parametrize("case", ["equal", "small shares", "class mix"])
def test_without_a_bad_source_none_is_named(rows: int, case: str) -> None:
    rng = np.random.default_rng(rows)
    named = 0
    for place in range(40):
        shares = rng.uniform(0, 0.08, 5) if case == "small shares" else np.full(5, rng.uniform(0, 0.2))
        classes = (2, 6)[place % 2]
        priors = skewed(rng, classes) if case == "class mix" else None
        lines, _ = simulate(rng, rows, shares, classes, (0.05, 0.15, 0.25)[place % 3], priors=priors)
        named += any(line["named"] for line in lines)
    assert named <= 2


def test_a_hard_source_is_not_taken_for_a_bad_one() -> None:
    """Its rows lie nearer the boundary, which certainty shows."""
    rng = np.random.default_rng(0)
    ease = np.array([0.8, 1, 1, 1, 1.2])
    named = sum(
        any(line["named"] for line in simulate(rng, 3000, np.full(5, 0.05), 2, 0.15, ease=ease)[0])
        for _ in range(20)
    )
    assert named <= 2


def test_p_values_without_a_difference_are_seldom_small() -> None:
    """The corrected p-value: below .05 in at most 5 % of the columns, chance allowed for."""
    rng = np.random.default_rng(0)
    least = [min(line["p_value"] for line in simulate(rng, 1000, np.full(5, 0.1), 3)[0]) for _ in range(100)]
    assert np.mean(np.array(least) < 0.05) <= 0.09


def test_lines_have_counts_and_no_test_for_few_rows_or_a_single_value() -> None:
    few = FEWEST_ROWS - 1
    codes = np.array([0] * 200 + [1] * few + [-1] * 5)
    rows = len(codes)
    contradicted, flagged = np.zeros(rows, dtype=bool), np.arange(rows) < 10
    opinions = Opinions(contradicted, np.zeros(rows, int), np.zeros(rows), np.ones(rows, bool), 2)
    overall = {"value": 0.1, "low": 0.05, "high": 0.15}
    alone = SourceColumn("batch", np.zeros(rows, int), ["x"])
    lines = find_sources([SourceColumn("who", codes, ["anna", "bert"]), alone], opinions, flagged, overall)
    assert [(line["column"], line["value"], line["rows"], line["flagged"]) for line in lines] == [
        ("who", "anna", 200, 10),
        ("who", "bert", few, 0),
        ("batch", "x", rows, 10),
    ]
    assert all(line["p_value"] is None and line["wrong_share"] is None for line in lines)
    assert not any(line["named"] for line in lines)
    assert lines[0]["flagged_share"]["low"] < 0.05 < lines[0]["flagged_share"]["high"]


def test_without_an_estimate_a_source_is_named_without_a_share() -> None:
    rng = np.random.default_rng(0)
    truth, source = rng.integers(2, size=2000), rng.integers(2, size=2000)
    wrong = (source == 1) & (rng.random(2000) < 0.3)
    opinions = class_opinions(np.eye(2)[truth] * 0.8 + 0.1, truth ^ wrong)
    lines = find_sources([SourceColumn("who", source, ["anna", "bert"])], opinions, wrong, None)
    assert (lines[0]["value"], lines[0]["named"], lines[0]["wrong_share"]) == ("bert", True, None)
    assert not lines[1]["named"]


def test_of_columns_that_nobody_declared_only_named_values_are_listed() -> None:
    rng = np.random.default_rng(0)
    truth, hour, colour = rng.integers(2, size=3000), rng.integers(4, size=3000), rng.integers(3, size=3000)
    wrong = (hour == 2) & (rng.random(3000) < 0.3)
    opinions = class_opinions(np.eye(2)[truth] * 0.8 + 0.1, truth ^ wrong)
    columns = [
        SourceColumn("hour", hour, ["0", "6", "12", "18"], declared=False),
        SourceColumn("colour", colour, ["red", "green", "blue"], declared=False),
    ]
    (line,) = find_sources(columns, opinions, wrong, {"value": 0.08, "low": 0.06, "high": 0.1})
    assert (line["column"], line["value"], line["declared"]) == ("hour", "12", False)
    assert abs(line["wrong_share"]["value"] - 0.3) < 0.05


def test_rows_without_an_opinion_do_not_count() -> None:
    rng = np.random.default_rng(0)
    truth, source = rng.integers(2, size=1000), rng.integers(2, size=1000)
    wrong = source == 1
    opinions = class_opinions(np.eye(2)[truth] * 0.8 + 0.1, truth ^ wrong, judged=~wrong)
    assert not any(
        line["named"]
        for line in find_sources([SourceColumn("who", source, ["a", "b"])], opinions, wrong, None)
    )


def test_a_source_of_shifted_targets_is_named() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.integers(5, size=3000), rng.normal(size=3000)
    prediction = target + 0.4 * rng.normal(size=3000)
    lines = find_sources(
        [SourceColumn("who", source, NAMES)],
        target_opinions(prediction, target + (source == 3)),
        np.zeros(3000, bool),
        None,
    )
    assert (lines[0]["value"], lines[0]["named"]) == ("d", True)
    assert sum(line["named"] for line in lines) == 1
    right = find_sources(
        [SourceColumn("who", source, NAMES)], target_opinions(prediction, target), np.zeros(3000, bool), None
    )
    assert not any(line["named"] for line in right)


def test_a_source_of_wrong_sets_is_named() -> None:
    rng = np.random.default_rng(0)
    source, sets = rng.integers(3, size=1500), rng.integers(2, size=(1500, 4))
    given = sets.copy()
    wrong = (source == 0) & (rng.random(1500) < 0.3)
    given[wrong, 1] ^= 1
    lines = find_sources(
        [SourceColumn("who", source, ["a", "b", "c"])],
        set_opinions(0.1 + 0.8 * sets, given),
        wrong,
        None,
    )
    assert [line["value"] for line in lines if line["named"]] == ["a"]


def test_strata_rank_certainty_within_predicted_classes() -> None:
    strata = strata_of(np.repeat([0, 1], 200), np.arange(400.0))
    assert list(np.bincount(strata)) == [40] * 10
    assert (np.diff(strata) >= 0).all()


def test_judges_are_told_a_sources_own_mix_of_classes() -> None:
    """Two overlapping classes: with the mix that is found, probabilities are those of a judge who knew it."""
    rng = np.random.default_rng(0)
    truth = rng.random(4000) < 0.1
    value = rng.normal(size=4000) + 2.0 * truth
    odds = np.exp(2.0 * value - 2.0)
    equal = np.column_stack([1 / (1 + odds), odds / (1 + odds)])
    expected = odds * 0.1 / (odds * 0.1 + 0.9)
    found = with_own_classes(equal, np.array([0.5, 0.5]))
    assert np.abs(found[:, 1] - expected).mean() < 0.01
