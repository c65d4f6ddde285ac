"""The judges: plain, strongly regularised models of scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import ComplementNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from pipeline.panel.material import Blocks
from pipeline.panel.spaces import LinearSpace, Space, TextSpace, TreeSpace
from pipeline.panel.trimmed import Trimmed

MOST_BOOSTED = 10
"""Classes or labels above which nothing is boosted: a tree of each class is grown in every round."""
MOST_LEAF_NUMBERS = 100_000
"""Of a tree: leaves times classes."""
MOST_LABELS = 30
"""Of sets, above which trees don't judge: every label takes a forest."""
NEIGHBOURS = 20
MOST_SEARCHED = 20_000
"""Rows that neighbours are looked for among: a seeded sample of more."""
FLOOR = 1e-3
"""Share of the classes' shares that is mixed into every opinion, so that none is impossible."""


@dataclass(frozen=True)
class Judge:
    """A kind of model. family, words: for people. label: what the report says of a row whose label it doubts.

    fits: whether it can judge such blocks (and so many outputs).

    classifier, regressor: (rows, outputs, seed) → an estimator that is not fitted; None where the kind has none.
    """

    name: str
    family: str
    words: str
    label: str
    space: Callable[[int], Space]
    fits: Callable[[Blocks, int], bool]
    classifier: Callable[[int, int, int], Any]
    regressor: Callable[[int, int, int], Any] | None
    most_rows: int | None = None  # that it is fitted on, where that is fewer than the panel's


def logistic(rows: int, outputs: int, seed: int) -> LogisticRegression:  # noqa: ARG001
    return LogisticRegression(C=0.5, tol=1e-3, max_iter=200)


def ridge(rows: int, outputs: int, seed: int) -> Trimmed:  # noqa: ARG001
    return Trimmed(Ridge(alpha=10.0, solver="auto"), seed)


def bayes(rows: int, outputs: int, seed: int) -> ComplementNB:  # noqa: ARG001
    return ComplementNB(alpha=0.5)


def boosting_options(rows: int, seed: int) -> dict[str, Any]:
    """60 rounds of trees with leaves of 60 rows, or of a fiftieth of the rows where those are few."""
    leaf = max(5, min(60, rows // 50))
    return {
        "max_iter": 60,
        "min_samples_leaf": leaf,
        "l2_regularization": 5.0,
        "early_stopping": False,
        "random_state": seed,
    }


def boosted_targets(rows: int, outputs: int, seed: int) -> Trimmed:  # noqa: ARG001
    """150 rounds on absolute errors, which a wrong target moves less than squared ones."""
    boosting = HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=150,
        min_samples_leaf=max(5, min(10, rows // 50)),
        early_stopping=False,
        random_state=seed,
    )
    return Trimmed(boosting, seed)


def tree_options(rows: int, outputs: int, seed: int) -> dict[str, Any]:
    """150 trees with leaves of 5 rows, of 2 below a thousand rows, of more where the leaves would not fit memory."""
    least = 5 if rows >= 1000 else 2
    return {
        "n_estimators": 150,
        "min_samples_leaf": max(least, -(-rows * outputs // MOST_LEAF_NUMBERS)),
        "n_jobs": 1,
        "random_state": seed,
    }


def has_text(blocks: Blocks, outputs: int) -> bool:  # noqa: ARG001
    return bool(blocks.texts)


def has_more_than_text(blocks: Blocks, outputs: int) -> bool:  # noqa: ARG001
    return bool(blocks.ordinals or blocks.wide)


JUDGES = (
    Judge(
        "linear",
        "linear",
        "linear model of n-grams of text, scaled columns and components of pixels",
        "linear model differs",
        LinearSpace,
        lambda blocks, outputs: True,
        logistic,
        ridge,
    ),
    Judge(
        "naive_bayes",
        "counting",
        "complement naive Bayes on n-grams of text",
        "naive Bayes differs",
        TextSpace,
        has_text,
        bayes,
        None,
    ),
    Judge(
        "boosting",
        "trees",
        "gradient boosting with small trees",
        "boosting differs",
        TreeSpace,
        lambda blocks, outputs: bool(blocks.ordinals) and outputs <= MOST_BOOSTED,
        lambda rows, outputs, seed: HistGradientBoostingClassifier(**boosting_options(rows, seed)),
        boosted_targets,
    ),
    Judge(
        "extra_trees",
        "random trees",
        "extremely randomised trees with large leaves",
        "random trees differ",
        TreeSpace,
        has_more_than_text,
        lambda rows, outputs, seed: ExtraTreesClassifier(**tree_options(rows, outputs, seed)),
        lambda rows, outputs, seed: Trimmed(ExtraTreesRegressor(**tree_options(rows, outputs, seed)), seed),
    ),
    Judge(
        "neighbours",
        "neighbours",
        "the labels of the nearest rows by lists of numbers",
        "neighbours differ (panel)",
        LinearSpace,
        lambda blocks, outputs: any(key.endswith("/list") for key in blocks.wide),
        lambda rows, outputs, seed: KNeighborsClassifier(
            min(NEIGHBOURS, max(1, rows // 10)), weights="distance"
        ),
        lambda rows, outputs, seed: KNeighborsRegressor(
            min(NEIGHBOURS, max(1, rows // 10)), weights="distance"
        ),
        MOST_SEARCHED,
    ),
)
BY_NAME = {judge.name: judge for judge in JUDGES}


def choose_judges(blocks: Blocks, task: str, outputs: int) -> list[Judge]:
    """The judges of such features; nobody where there are none."""
    able = [judge for judge in JUDGES if judge.fits(blocks, outputs)]
    if task == "regression":
        return [judge for judge in able if judge.regressor is not None]
    if task == "multilabel" and outputs > MOST_LABELS:
        return [judge for judge in able if judge.space is not TreeSpace]
    return able


class Fitted:
    """A judge fitted on some rows.

    labels: int64 classes, float32 targets or uint8 sets `[rows, labels]`; outputs: classes or labels.
    """

    def __init__(self, judge: Judge, blocks: Blocks, labels: np.ndarray, task: str, outputs: int, seed: int):
        self.task, self.outputs = task, outputs
        if judge.most_rows is not None and len(labels) > judge.most_rows:
            some = np.sort(np.random.RandomState(seed).permutation(len(labels))[: judge.most_rows])
            blocks, labels = blocks.select(some), labels[some]
        self._space = judge.space(outputs)
        self._space.fit(blocks, seed)
        matrix = self._space.transform(blocks)
        rows = len(labels)
        if task == "regression":
            assert judge.regressor is not None
            self._models = [judge.regressor(rows, outputs, seed).fit(matrix, labels)]
        elif task == "multilabel":
            self._share = labels.mean(0)
            self._models = [fit_classes(judge, matrix, labels[:, place], 2, seed) for place in range(outputs)]
        else:
            self._share = np.bincount(labels, minlength=outputs) / rows
            self._models = [fit_classes(judge, matrix, labels, outputs, seed)]

    def judge(self, blocks: Blocks) -> np.ndarray:
        """float32 `[rows, classes]`, `[rows, labels]` probabilities, or `[rows]` predicted targets."""
        matrix = self._space.transform(blocks)
        if self.task == "regression":
            return self._models[0].predict(matrix).astype(np.float32)
        if self.task == "multilabel":
            opinions = np.stack([probabilities(model, matrix, 2)[:, 1] for model in self._models], 1)
        else:
            opinions = probabilities(self._models[0], matrix, self.outputs)
        return ((1 - FLOOR) * opinions + FLOOR * self._share).astype(np.float32)


def fit_classes(judge: Judge, matrix: Any, labels: np.ndarray, outputs: int, seed: int) -> Any:
    """The fitted classifier, or the only class that there is."""
    if (labels == labels[0]).all():
        return int(labels[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near the optimum is good enough
        return judge.classifier(len(labels), outputs, seed).fit(matrix, labels)


def probabilities(model: Any, matrix: Any, outputs: int) -> np.ndarray:
    """`[rows, outputs]`: 0 for a class that the model has not seen."""
    found = np.zeros((matrix.shape[0], outputs))
    if isinstance(model, int):
        found[:, model] = 1
    else:
        found[:, model.classes_.astype(np.int64)] = model.predict_proba(matrix)
    return found
