"""The judges: plain scikit-learn models with strong regularisation."""

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

from pipeline.panel.feature_blocks import Blocks
from pipeline.panel.spaces import (
    DirectionSpace,
    LinearSpace,
    Space,
    TextSpace,
    TreeSpace,
    fine_space,
    own_space,
    wide_lists,
)
from pipeline.panel.trimmed import Trimmed

MOST_BOOSTED = 10
"""With more classes or labels there is no boosting, since every round grows a tree for each class."""
MOST_LEAF_NUMBERS = 100_000
"""Upper limit of leaves times classes of a tree."""
MOST_LABELS = 30
"""With more labels in a multi-label task there are no trees, since every label needs its own forest."""
NEIGHBOURS = 20
MOST_SEARCHED = 20_000
"""Neighbours are searched among at most so many rows, a seeded sample."""
FLOOR = 1e-3
"""The weight of the class shares in every opinion, so that no class has probability 0."""


@dataclass(frozen=True)
class AnyJudge:
    """What judges rows: a model that is fitted out of fold, or one of the user's own.

    Attributes:
        name: in file names and signals.
        family: of models, for people.
        words: what the judge is, for people.
        label: what the report says about a row whose label the judge doubts.
    """

    name: str
    family: str
    words: str
    label: str


@dataclass(frozen=True)
class Judge(AnyJudge):
    """A kind of model.

    Attributes:
        space: makes its input from blocks of features; called with the number of outputs.
        fits: (blocks, outputs) → whether the judge can use these features and this number of outputs.
        classifier: (rows, outputs, seed) → an estimator that is not fitted.
        regressor: the same for regression; None if the judge has none.
        most_rows: how many rows the judge is fitted on at most; None sets no limit besides the panel's.
    """

    space: Callable[[int], Space]
    fits: Callable[[Blocks, int], bool]
    classifier: Callable[[int, int, int], Any]
    regressor: Callable[[int, int, int], Any] | None
    most_rows: int | None = None


def _logistic(rows: int, outputs: int, seed: int) -> LogisticRegression:  # noqa: ARG001
    return LogisticRegression(C=0.5, tol=1e-3, max_iter=200)


def _ridge(rows: int, outputs: int, seed: int) -> Trimmed:  # noqa: ARG001
    return Trimmed(Ridge(alpha=10.0, solver="auto"), seed)


def _bayes(rows: int, outputs: int, seed: int) -> ComplementNB:  # noqa: ARG001
    return ComplementNB(alpha=0.5)


def _boosting_options(rows: int, seed: int) -> dict[str, Any]:
    """60 rounds of trees whose leaves have at least 60 rows, or 1/50 of the rows if these are few."""
    leaf = max(5, min(60, rows // 50))
    return {
        "max_iter": 60,
        "min_samples_leaf": leaf,
        "l2_regularization": 5.0,
        "early_stopping": False,
        "random_state": seed,
    }


def _boosted_targets(rows: int, outputs: int, seed: int) -> Trimmed:  # noqa: ARG001
    """150 rounds on the absolute error, which wrong targets influence less than the squared error."""
    boosting = HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=150,
        min_samples_leaf=max(5, min(10, rows // 50)),
        early_stopping=False,
        random_state=seed,
    )
    return Trimmed(boosting, seed)


def _tree_options(rows: int, outputs: int, seed: int) -> dict[str, Any]:
    """150 trees whose leaves have at least 5 rows, or 2 below 1,000 rows, or more if memory would not hold them."""
    least = 5 if rows >= 1000 else 2
    return {
        "n_estimators": 150,
        "min_samples_leaf": max(least, -(-rows * outputs // MOST_LEAF_NUMBERS)),
        "n_jobs": 1,
        "random_state": seed,
    }


def _neighbour_classes(rows: int, outputs: int, seed: int) -> KNeighborsClassifier:  # noqa: ARG001
    return KNeighborsClassifier(min(NEIGHBOURS, max(1, rows // 10)), weights="distance")


def _neighbour_targets(rows: int, outputs: int, seed: int) -> KNeighborsRegressor:  # noqa: ARG001
    return KNeighborsRegressor(min(NEIGHBOURS, max(1, rows // 10)), weights="distance")


def _has_embeddings(blocks: Blocks, outputs: int) -> bool:  # noqa: ARG001
    return bool(blocks.own)


def _has_text(blocks: Blocks, outputs: int) -> bool:  # noqa: ARG001
    return bool(blocks.texts)


def _has_more_than_text(blocks: Blocks, outputs: int) -> bool:  # noqa: ARG001
    return bool(blocks.ordinals or blocks.wide)


JUDGES = (  # they see the features
    Judge(
        "linear",
        "linear",
        "linear model of n-grams of text, scaled columns and components of pixels",
        "linear model differs",
        LinearSpace,
        lambda blocks, outputs: True,
        _logistic,
        _ridge,
    ),
    Judge(
        "linear_fine",
        "linear",
        "linear model of many components of lists of numbers",
        "finer linear model differs",
        fine_space,
        lambda blocks, outputs: bool(wide_lists(blocks)),
        _logistic,
        _ridge,
    ),
    Judge(
        "naive_bayes",
        "counting",
        "complement naive Bayes on n-grams of text",
        "naive Bayes differs",
        TextSpace,
        _has_text,
        _bayes,
        None,
    ),
    Judge(
        "boosting",
        "trees",
        "gradient boosting with small trees",
        "boosting differs",
        TreeSpace,
        lambda blocks, outputs: bool(blocks.ordinals) and outputs <= MOST_BOOSTED,
        lambda rows, outputs, seed: HistGradientBoostingClassifier(**_boosting_options(rows, seed)),
        _boosted_targets,
    ),
    Judge(
        "extra_trees",
        "random trees",
        "extremely randomised trees with large leaves",
        "random trees differ",
        TreeSpace,
        _has_more_than_text,
        lambda rows, outputs, seed: ExtraTreesClassifier(**_tree_options(rows, outputs, seed)),
        lambda rows, outputs, seed: Trimmed(ExtraTreesRegressor(**_tree_options(rows, outputs, seed)), seed),
    ),
    Judge(
        "neighbours",
        "neighbours",
        "the labels of the nearest rows by lists of numbers",
        "neighbours differ (panel)",
        LinearSpace,
        lambda blocks, outputs: any(key.endswith("/list") for key in blocks.wide),
        _neighbour_classes,
        _neighbour_targets,
        MOST_SEARCHED,
    ),
)
OWN_LINEAR = Judge(
    "own_linear",
    "linear",
    "linear model of your embeddings",
    "linear model of your embeddings differs",
    own_space,
    _has_embeddings,
    _logistic,
    _ridge,
)
OWN_NEIGHBOURS = Judge(
    "own_neighbours",
    "neighbours",
    "the labels of the nearest rows by your embeddings",
    "neighbours by your embeddings differ",
    DirectionSpace,
    _has_embeddings,
    _neighbour_classes,
    _neighbour_targets,
    MOST_SEARCHED,
)
OWN_PROBABILITIES = AnyJudge(
    "own_probabilities", "your own model", "your own class probabilities", "your model doubts the label"
)
"""Says what `data.pred_probs` has; nothing is fitted."""
FITTED = (*JUDGES, OWN_LINEAR, OWN_NEIGHBOURS)
OWN = (OWN_LINEAR.name, OWN_NEIGHBOURS.name, OWN_PROBABILITIES.name)
BY_NAME = {judge.name: judge for judge in FITTED}


def choose_judges(blocks: Blocks, task: str, outputs: int) -> list[Judge]:
    """The judges that can use these features for this task; the list may be empty."""
    able = [judge for judge in FITTED if judge.fits(blocks, outputs)]
    if task == "regression":
        return [judge for judge in able if judge.regressor is not None]
    if task == "multilabel" and outputs > MOST_LABELS:
        return [judge for judge in able if judge.space is not TreeSpace]
    return able


class Fitted:
    """A judge that is fitted on some rows.

    Args:
        judge: the kind of model.
        blocks: the features of the rows.
        labels: int64 classes `[rows]`, float32 targets `[rows]` or uint8 sets `[rows, labels]`.
        task: classification, regression or multilabel.
        outputs: how many classes or labels there are.
        seed: of the fit.
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
            self._models = [
                _fit_classes(judge, matrix, labels[:, place], 2, seed) for place in range(outputs)
            ]
        else:
            self._share = np.bincount(labels, minlength=outputs) / rows
            self._models = [_fit_classes(judge, matrix, labels, outputs, seed)]

    def judge(self, blocks: Blocks) -> np.ndarray:
        """Opinions on rows, float32: probabilities `[rows, classes]` or `[rows, labels]`, or targets `[rows]`."""
        matrix = self._space.transform(blocks)
        if self.task == "regression":
            return self._models[0].predict(matrix).astype(np.float32)
        if self.task == "multilabel":
            opinions = np.stack([probabilities(model, matrix, 2)[:, 1] for model in self._models], 1)
        else:
            opinions = probabilities(self._models[0], matrix, self.outputs)
        return ((1 - FLOOR) * opinions + FLOOR * self._share).astype(np.float32)


def _fit_classes(judge: Judge, matrix: Any, labels: np.ndarray, outputs: int, seed: int) -> Any:
    """A fitted classifier; if all labels are equal, this class (int) instead."""
    if (labels == labels[0]).all():
        return int(labels[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a solution near the optimum is good enough
        return judge.classifier(len(labels), outputs, seed).fit(matrix, labels)


def probabilities(model: Any, matrix: Any, outputs: int) -> np.ndarray:
    """The probabilities of a model of `_fit_classes`, `[rows, outputs]`; 0 for classes that it has not seen."""
    found = np.zeros((matrix.shape[0], outputs))
    if isinstance(model, int):
        found[:, model] = 1
    else:
        found[:, model.classes_.astype(np.int64)] = model.predict_proba(matrix)
    return found
