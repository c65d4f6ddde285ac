"""Finds sources of wrong labels: values of a column whose labels the out-of-sample judges contradict more often.

A judge contradicts a label by its own mistake or because the label is wrong. So rows are compared within strata of the
same predicted class and the same certainty, in which the mistakes of the judges are equally frequent for all sources.
If the judges err on a share e of the right labels in a stratum, then for K classes

    contradicted = share · (1 − e/(K − 1)) + (1 − share) · e,

so that the difference between the rates of two sources, divided by 1 − e − e/(K − 1), is the difference between their
shares of wrong labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from pipeline.detection.intervals import NORMAL_QUANTILE, wilson

FEWEST_ROWS = 30
"""A value with fewer rows is not tested."""
MOST_VALUES = 200
"""At most so many values of a column are tested and listed, those with the most rows."""
CERTAINTY_BINS = 5
ROWS_OF_BIN = 40
"""How many rows of a predicted class a bin of certainty has."""
LEVEL = 0.05
"""The level of the test that names sources, over all values together."""
MARGIN = 0.03
"""A source is named if its share of wrong labels is significantly higher than the others' by more than this."""
SUREST = 0.95
"""If the judges saw the source, certainties are scaled so that all sources agree at this quantile."""
MIX_STEPS = 30
PRIOR_ROWS = 20
"""For the estimate of a source's class shares: steps, and the number of rows that the overall shares count as."""
LEAST_RATE = 0.02
"""Lower limit of contradiction rates in weights, so that no rare event decides alone."""
DOUBTFUL_TARGET = 2.0
"""A numeric target is contradicted if its residual exceeds so many robust standard deviations."""


@dataclass(frozen=True)
class SourceColumn:
    """A column that may say who made the labels.

    Attributes:
        name: of the column, or `shard`.
        codes: int64 `[rows]`, places in `values`; −1 if the shard can't be read.
        values: as text.
        declared: whether it is in data.group or is the shard.
        seen: whether the judges were fitted with it.
    """

    name: str
    codes: np.ndarray
    values: list[str]
    declared: bool = True
    seen: bool = False


@dataclass(frozen=True)
class Opinions:
    """What out-of-sample judges say about the labels; arrays are `[rows]`.

    Attributes:
        contradicted: bool.
        predicted: int, the predicted class, or another stratum in which mistakes are equally frequent.
        certainty: float, higher for more certain predictions.
        judged: bool, False for rows without an opinion.
        classes: K; None if contradictions give no shares of wrong labels (numeric targets, sets of labels).
        probabilities: `[rows, classes]`; None except for classes.
        given: the given classes; None except for classes.
    """

    contradicted: np.ndarray
    predicted: np.ndarray
    certainty: np.ndarray
    judged: np.ndarray
    classes: int | None = None
    probabilities: np.ndarray | None = None
    given: np.ndarray | None = None


def class_opinions(
    probabilities: np.ndarray, given: np.ndarray, judged: np.ndarray | None = None
) -> Opinions:
    """Opinions from out-of-fold probabilities `[rows, classes]` and given classes `[rows]`."""
    predicted = probabilities.argmax(1)
    certainty = probabilities[np.arange(len(given)), predicted].astype(np.float64)
    everywhere = np.ones(len(given), dtype=bool) if judged is None else np.asarray(judged)
    return Opinions(
        predicted != given, predicted, certainty, everywhere, probabilities.shape[1], probabilities, given
    )


def target_opinions(
    predictions: np.ndarray, targets: np.ndarray, judged: np.ndarray | None = None
) -> Opinions:
    """Opinions from out-of-fold predictions and numeric targets, both `[rows]`.

    A large residual contradicts its target. Strata are fifths of the prediction; all rows count as equally certain.
    """
    residuals = np.asarray(targets, dtype=np.float64) - predictions
    residuals -= np.median(residuals)
    deviation = 1.4826 * np.median(np.abs(residuals))
    fifths = np.argsort(np.argsort(predictions, kind="stable")) * CERTAINTY_BINS // max(1, len(targets))
    everywhere = np.ones(len(targets), dtype=bool) if judged is None else np.asarray(judged)
    return Opinions(
        np.abs(residuals) > DOUBTFUL_TARGET * deviation, fifths, np.zeros(len(targets)), everywhere
    )


def set_opinions(probabilities: np.ndarray, given: np.ndarray, judged: np.ndarray | None = None) -> Opinions:
    """Opinions from out-of-fold probabilities and given sets, both `[rows, labels]`.

    A row is contradicted if any of its labels is.
    """
    predicted = probabilities > 0.5
    certainty = np.abs(probabilities - 0.5).min(1).astype(np.float64)
    everywhere = np.ones(len(given), dtype=bool) if judged is None else np.asarray(judged)
    return Opinions((predicted != given.astype(bool)).any(1), predicted.sum(1), certainty, everywhere)


def find_sources(
    columns: Sequence[SourceColumn],
    opinions: Opinions,
    flagged: np.ndarray,
    overall: dict[str, float] | None,
) -> list[dict[str, Any]]:
    """Test all values of the columns.

    Args:
        columns: that may say who made the labels.
        opinions: of the judges.
        flagged: bool `[rows]`, whether the decision is not keep.
        overall: value, low and high of the estimated share of wrong labels of all rows, or None.

    Returns:
        A line for each value, column by column, with the likeliest source of wrong labels first. For undeclared columns
        only named values are listed. A line has column, value, rows, flagged, flagged_share, wrong_share, others_share,
        p_value, named, declared, forecast and measured. `wrong_share` is None without `overall` or for too few rows.
        `p_value` is for the hypothesis that the labels of other rows are contradicted as often; it is corrected for the
        number of tested values. Verification fills in `forecast` and `measured`.
    """
    tested = [_tested_values(column, opinions.judged) for column in columns]
    tests = max(1, sum(len(values) for values in tested))
    lines: list[dict[str, Any]] = []
    for column, values in zip(columns, tested, strict=True):
        rates = _compare_values(column, values, opinions, overall)
        of_column = [
            _describe(column, code, flagged, rates.get(code), overall, tests)
            for code in _listed_values(column)
        ]
        of_column.sort(key=lambda line: (not line["named"], -line.pop("rank")))
        lines += [line for line in of_column if column.declared or line["named"]]
    return lines


@dataclass(frozen=True)
class Rates:
    """A value compared with all other rows.

    Attributes:
        excess: its share of wrong labels minus that of the other rows.
        error: the standard error of the excess.
        score: of the test.
        weight: its share of the judged rows.
    """

    excess: float
    error: float
    score: float
    weight: float


def _listed_values(column: SourceColumn) -> list[int]:
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
    order = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    return [int(code) for code in order if counts[code]]


def _tested_values(column: SourceColumn, judged: np.ndarray) -> list[int]:
    """The codes of the values for which the value and all other rows have at least FEWEST_ROWS judged rows."""
    codes = column.codes[judged & (column.codes >= 0)]
    counts = np.bincount(codes, minlength=len(column.values))
    return [
        code
        for code in _listed_values(column)
        if counts[code] >= FEWEST_ROWS and len(codes) - counts[code] >= FEWEST_ROWS
    ]


def _compare_values(
    column: SourceColumn, values: Sequence[int], opinions: Opinions, overall: dict[str, float] | None
) -> dict[int, Rates]:
    """Compare every value of `values` with all other rows of the column."""
    if not len(values):
        return {}
    use = opinions.judged & (column.codes >= 0)
    # All values that are not in `values` together count as one further value.
    place_of = np.full(len(column.values), len(values))
    place_of[list(values)] = np.arange(len(values))
    codes = place_of[column.codes[use]]
    contradicted, predicted, certainty = _of_sources(opinions, use, codes, len(values), column.seen)
    strata = strata_of(predicted, certainty)
    width = int(strata.max()) + 1
    cells, shape = codes * width + strata, (len(values) + 1, width)
    rows = np.bincount(cells, minlength=shape[0] * width).reshape(shape).astype(np.float64)
    against = np.bincount(cells, contradicted, shape[0] * width).reshape(shape)
    all_rows, all_against = rows.sum(0), against.sum(0)
    rate = (all_against + 1) / (all_rows + 2)
    found_by = _detection_rate(rate, opinions.classes, _base_share(rate, all_rows, overall))
    leverage = found_by / np.maximum(rate * (1 - rate), LEAST_RATE * (1 - LEAST_RATE))
    return {
        code: _against_the_rest(rows[place], against[place], all_rows, all_against, leverage, found_by)
        for place, code in enumerate(values)
    }


def _of_sources(
    opinions: Opinions, use: np.ndarray, codes: np.ndarray, values: int, seen: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(contradicted, predicted, certainty), each `[rows of use]`, made comparable between sources.

    Judges that did not see the source assume the same class shares for all sources; their probabilities are adjusted to
    the shares of each source. Judges that saw the source are less certain about all rows of a bad source; certainties
    are rescaled so that the most certain rows of all sources agree.
    """
    contradicted, predicted = opinions.contradicted[use], opinions.predicted[use]
    certainty = opinions.certainty[use]
    if opinions.probabilities is None or opinions.given is None:
        return contradicted, predicted, certainty
    probabilities, given = opinions.probabilities[use].astype(np.float64), opinions.given[use]
    if seen:
        chance = 1 / probabilities.shape[1]
        surest = max(np.quantile(certainty, SUREST), chance)
        for code in range(values):
            mine = codes == code
            own = max(np.quantile(certainty[mine], SUREST), chance + 1e-6)
            certainty[mine] = chance + (certainty[mine] - chance) * (surest - chance) / (own - chance)
        return contradicted, predicted, certainty
    for code in range(values):
        mine = codes == code
        probabilities[mine] = with_own_classes(probabilities[mine], probabilities.mean(0))
    predicted = probabilities.argmax(1)
    return predicted != given, predicted, probabilities[np.arange(len(given)), predicted]


def with_own_classes(probabilities: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Adjust probabilities `[rows, classes]` from the class shares that judges assume, `shares`, to those of the rows.

    The shares in these rows are found by expectation maximisation (Saerens, Latinne and Decaestecker 2002), with
    `shares` as a prior that counts as PRIOR_ROWS rows.
    """
    shares = np.maximum(shares, 1e-6)
    own, adjusted = shares, probabilities
    for _ in range(MIX_STEPS):
        adjusted = probabilities * (own / shares)
        adjusted /= adjusted.sum(1, keepdims=True)
        own = (adjusted.sum(0) + PRIOR_ROWS * shares) / (len(probabilities) + PRIOR_ROWS)
    return adjusted


def strata_of(predicted: np.ndarray, certainty: np.ndarray) -> np.ndarray:
    """The stratum of each row, int64 `[rows]`: its predicted class and the bin of its certainty within the class."""
    _, classes = np.unique(predicted, return_inverse=True)
    sizes = np.bincount(classes)
    order = np.lexsort((certainty, classes))
    places = np.empty(len(classes), dtype=np.int64)
    grouped = classes[order]
    places[order] = np.arange(len(classes)) - np.searchsorted(grouped, grouped)
    bins = np.clip(sizes // ROWS_OF_BIN, 1, CERTAINTY_BINS)[classes]
    return classes * CERTAINTY_BINS + places * bins // sizes[classes]


def _base_share(rate: np.ndarray, rows: np.ndarray, overall: dict[str, float] | None) -> float:
    """The estimated share of wrong labels, or without one the lowest contradiction rate of a stratum."""
    if overall is not None:
        return float(overall["value"])
    return float(rate[rows >= ROWS_OF_BIN].min(initial=1.0)) if (rows >= ROWS_OF_BIN).any() else 0.0


def _detection_rate(rate: np.ndarray, classes: int | None, share: float) -> np.ndarray:
    """How much more often wrong labels are contradicted than right ones in each stratum, at least .1.

    Args:
        rate: contradiction rate, `[strata]`; what wrong labels don't explain of it are mistakes of the judges.
        classes: K, or None.
        share: of wrong labels.
    """
    if classes is None:
        return np.ones_like(rate)
    others = 1 / max(1, classes - 1)
    mistakes = np.clip((rate - share) / max(0.1, 1 - share * (1 + others)), 0, 1)
    return np.maximum(0.1, 1 - mistakes * (1 + others))


def _against_the_rest(
    rows: np.ndarray,
    against: np.ndarray,
    all_rows: np.ndarray,
    all_against: np.ndarray,
    leverage: np.ndarray,
    found_by: np.ndarray,
) -> Rates:
    """A weighted Cochran–Mantel–Haenszel test, and the difference of the shares; arguments are `[strata]`."""
    others, others_against = all_rows - rows, all_against - against
    both = (rows > 0) & (others > 0)
    n1, n0, a1, a0 = rows[both], others[both], against[both], others_against[both]
    n, m, use = n1 + n0, a1 + a0, leverage[both]
    expected = n1 * m / n
    variance = n1 * n0 * m * (n - m) / (n * n * np.maximum(1, n - 1))
    total = float((use * (a1 - expected)).sum())
    deviation = float(np.sqrt((use * use * variance).sum()))
    score = (abs(total) - 0.5 * float(np.average(use, weights=n1))) / deviation if deviation else 0.0
    # Half a row is added to the counts, so that no rate has the variance 0.
    p1, p0 = (a1 + m / n) / (n1 + 1), (a0 + m / n) / (n0 + 1)
    weights = use * n1 * n0 / n
    reach = float((weights * found_by[both]).sum())
    excess = float((weights * (a1 / n1 - a0 / n0)).sum()) / reach if reach else 0.0
    spread = weights * weights * (p1 * (1 - p1) / n1 + p0 * (1 - p0) / n0)
    error = float(np.sqrt(spread.sum())) / reach if reach else np.inf
    return Rates(excess, error, float(np.sign(total)) * max(0.0, score), float(rows.sum() / all_rows.sum()))


def _describe(
    column: SourceColumn,
    code: int,
    flagged: np.ndarray,
    rates: Rates | None,
    overall: dict[str, float] | None,
    tests: int,
) -> dict[str, Any]:
    """The line of one value; the caller removes `rank` after sorting by it."""
    mine = column.codes == code
    number, changed = int(mine.sum()), int((mine & flagged).sum())
    line: dict[str, Any] = {
        "column": column.name,
        "value": column.values[code],
        "rows": number,
        "flagged": changed,
        "flagged_share": wilson(changed, number),
        "wrong_share": None,
        "others_share": None,
        "p_value": None,
        "named": False,
        "declared": column.declared,
        "forecast": None,
        "measured": None,
        "rank": -np.inf,
    }
    if rates is None:
        return line
    surely = rates.excess - float(norm.isf(LEVEL / tests)) * rates.error
    line |= {
        "p_value": min(1.0, tests * float(norm.sf(rates.score))),
        "named": bool(surely > MARGIN and tests * norm.sf(rates.score) < LEVEL),
        "rank": rates.score,
    }
    if overall is not None:
        line["wrong_share"] = _share_with_interval(overall, (1 - rates.weight) * rates.excess, rates.error)
        line["others_share"] = min(1.0, max(0.0, overall["value"] - rates.weight * rates.excess))
    return line


def _share_with_interval(overall: dict[str, float], excess: float, error: float) -> dict[str, float]:
    """The share of wrong labels of a value: the overall share plus the excess, with the errors of both."""
    value = overall["value"] + excess
    half = np.hypot(NORMAL_QUANTILE * error, (overall["high"] - overall["low"]) / 2)
    low, value, high = (float(np.clip(each, 0, 1)) for each in (value - half, value, value + half))
    return {"value": value, "low": low, "high": high}
