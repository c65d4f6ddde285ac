"""What a practitioner does today with one noisy file: cleanlab on the out-of-fold opinions of a usual model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
from cleanlab.count import num_label_issues
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from cleanlab.regression.learn import CleanLearning
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from benchmarks.detection_findings import Finding
from benchmarks.detection_tasks import GIVEN
from benchmarks.one_file.noise import SOURCE_COLUMN
from benchmarks.one_file.sets import OneFileSet, class_codes

FOLDS = 5
FLAGGED = "flagged"
MAIN = {"text": "cleanlab_tfidf", "table": "cleanlab_boosting", "pixels": "cleanlab_mlp"}
"""The model that a practitioner takes first, by the kind of rows."""


@dataclass(frozen=True)
class Opinion:
    """What a peer says: its ranking and flags, and its estimate of the share of wrong labels where it has one."""

    finding: Finding
    noise: float | None = None
    facts: dict[str, float] = field(default_factory=dict)


def peers(known: OneFileSet, rows: pa.Table, seed: int) -> Iterator[Opinion]:
    """rows: the table in the file, as it was given."""
    if known.regression:
        yield of_regression(known, rows, seed)
        return
    _, codes = class_codes(rows[GIVEN])
    inputs = inputs_of(known, rows)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for method, model in models(known, rows, seed).items():
        probabilities = cross_val_predict(model, inputs, codes, cv=folds, method="predict_proba")
        accuracy = {"accuracy_given": float((probabilities.argmax(1) == codes).mean())}
        flags = {FLAGGED: find_label_issues(codes, probabilities, n_jobs=1)}
        finding = Finding(method, -get_label_quality_scores(codes, probabilities), flags)
        yield Opinion(finding, num_label_issues(codes, probabilities) / len(codes), accuracy)
        if method == MAIN[known.kind]:
            yield from datalab(codes, probabilities)


def models(known: OneFileSet, rows: pa.Table, seed: int) -> dict[str, object]:
    """Untrained models by method, with scikit-learn's defaults where nothing else is said."""
    if known.kind == "text":
        return {"cleanlab_tfidf": make_pipeline(TfidfVectorizer(), LogisticRegression(C=3, max_iter=1000))}
    if known.kind == "pixels":
        network = MLPClassifier(
            (256, 128),
            solver="sgd",
            learning_rate_init=0.03,
            momentum=0.9,
            nesterovs_momentum=False,
            alpha=1e-3,
            batch_size=32,
            max_iter=20,
            n_iter_no_change=20,
            random_state=seed,
        )
        return {"cleanlab_mlp": network}
    categories = category_columns(known, rows)
    numbers = [place for place in range(len(columns_of(known, rows))) if place not in categories]
    unknown = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan
    )
    ordinal = make_column_transformer((unknown, categories), ("passthrough", numbers))
    first = list(range(len(categories)))  # the transformed categories come first
    boosting = HistGradientBoostingClassifier(categorical_features=first, random_state=seed)
    one_hot = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), categories), (StandardScaler(), numbers)
    )
    return {
        "cleanlab_boosting": make_pipeline(ordinal, boosting),
        "cleanlab_linear": make_pipeline(one_hot, LogisticRegression(max_iter=1000)),
    }


def columns_of(known: OneFileSet, rows: pa.Table) -> list[str]:
    """The columns that a usual model of a table sees: all but label and key."""
    return [*known.features, *([SOURCE_COLUMN] if SOURCE_COLUMN in rows.column_names else [])]


def category_columns(known: OneFileSet, rows: pa.Table) -> list[int]:
    names = columns_of(known, rows)
    return [place for place, name in enumerate(names) if pa.types.is_string(rows.schema.field(name).type)]


def inputs_of(known: OneFileSet, rows: pa.Table) -> np.ndarray | list[str]:
    """Texts; pixels as float32 `[rows, pixels]` of mean 0; or columns as objects `[rows, columns]`."""
    if known.kind == "text":
        return rows["text"].to_pylist()
    if known.kind == "pixels":
        pixels = rows["image"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
        scaled = pixels.astype(np.float32) / 255
        return scaled - scaled.mean(axis=0)
    return np.array([rows[name].to_pylist() for name in columns_of(known, rows)], dtype=object).T


def datalab(codes: np.ndarray, probabilities: np.ndarray) -> Iterator[Opinion]:
    """Datalab on the same probabilities; left out, with a line that says so, where `datasets` is not installed."""
    if find_spec("datasets") is None:
        print("datalab: left out, it needs the package `datasets`")
        return
    from cleanlab import Datalab

    lab = Datalab({GIVEN: codes.tolist()}, label_name=GIVEN, verbosity=0)
    lab.find_issues(pred_probs=probabilities, issue_types={"label": {}})
    found = lab.get_issues("label")
    flagged = found["is_label_issue"].to_numpy()
    yield Opinion(
        Finding("datalab", -found["label_score"].to_numpy(), {FLAGGED: flagged}), float(flagged.mean())
    )


def of_regression(known: OneFileSet, rows: pa.Table, seed: int) -> Opinion:
    """cleanlab's own search for wrong targets, with boosting."""
    names = [name for name in columns_of(known, rows) if not pa.types.is_string(rows.schema.field(name).type)]
    columns = [rows[name].to_numpy().astype(np.float64) for name in names]
    if SOURCE_COLUMN in rows.column_names:
        sources = rows[SOURCE_COLUMN].to_numpy()
        columns += [(sources == source).astype(np.float64) for source in np.unique(sources)]
    learner = CleanLearning(HistGradientBoostingRegressor(random_state=seed), cv_n_folds=FOLDS, seed=seed)
    found = learner.find_label_issues(np.stack(columns, axis=1), rows[GIVEN].to_numpy().astype(np.float64))
    flagged = found["is_label_issue"].to_numpy()
    finding = Finding("cleanlab_boosting", -found["label_quality"].to_numpy(), {FLAGGED: flagged})
    return Opinion(finding, float(flagged.mean()))
