"""Wrong labels to plant: which rows get which other label."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.detection_tasks import GIVEN, TASKS
from pipeline.seeds import random_state

COMPONENTS = 64


def plant(task: str, train: pa.Table, noise: str, rate: float, seed: int) -> tuple[pa.Array, np.ndarray]:
    """The given labels of the train rows and where they are wrong, bool `[rows]`.

    - none: the labels as they are.
    - uniform: `rate` of the rows get one of the other classes, each as likely.
    - pairs: `rate` of the rows get the next class, c + 1 mod C.
    - features: `rate` of the rows, drawn with a probability that is proportional to the best other class's under
      a logistic regression that did not see the row (fitted on true labels), get that class.
    - targets: `rate` of the rows get the target of another of them (regression).
    - human_…: the labels that a person gave; `rate` is not used.
    """
    labels = train[GIVEN].combine_chunks()
    if noise.startswith("human_"):
        given = train[noise].combine_chunks()
        return given, given.to_numpy() != labels.to_numpy()
    random = random_state(f"planted {task} {noise}", seed, round(1000 * rate))
    count = round(rate * len(labels))
    if noise == "targets":
        return plant_targets(labels, count, random)
    names = np.unique(labels.to_numpy(zero_copy_only=False))
    codes = np.searchsorted(names, labels.to_numpy(zero_copy_only=False))
    others = other_classes(TASKS[task].features, train, codes, len(names), noise, count, random)
    given = np.where(others < 0, codes, others)
    return pa.array(names[given], labels.type), others >= 0


def plant_targets(labels: pa.Array, count: int, random: np.random.RandomState) -> tuple[pa.Array, np.ndarray]:
    """`count` rows get the target of another of them; the targets, and which of them changed, bool `[rows]`."""
    places = random.permutation(len(labels))[:count]
    values = labels.to_numpy().copy()
    values[places] = values[np.roll(places, 1)]
    return pa.array(values), values != labels.to_numpy()


def other_classes(
    features: dict[str, str],
    train: pa.Table,
    codes: np.ndarray,
    classes: int,
    noise: str,
    count: int,
    random: np.random.RandomState,
) -> np.ndarray:
    """int64 `[rows]`: the wrong class of `count` rows, −1 for the others."""
    others = np.full(len(codes), -1)
    if noise == "features":
        probabilities = cross_val_predict(
            LogisticRegression(max_iter=200), vectors(features, train), codes, cv=5, method="predict_proba"
        )
        probabilities[np.arange(len(codes)), codes] = 0
        best = probabilities.max(1)
        places = random.choice(len(codes), count, replace=False, p=best / best.sum())
        others[places] = probabilities[places].argmax(1)
        return others
    places = random.permutation(len(codes))[:count]
    shift = random.randint(1, classes, size=count) if noise == "uniform" else 1
    others[places] = (codes[places] + shift) % classes if noise != "none" else -1
    return others


def vectors(features: dict[str, str], rows: pa.Table) -> np.ndarray | csr_matrix:
    """Simple features of the rows: TF-IDF of texts, principal components of pictures, columns of tables."""
    name, kind = next(iter(features.items()))
    if kind == "text":
        return TfidfVectorizer(min_df=2).fit_transform(rows[name].to_pylist())
    if kind in ("image", "list"):
        flat = rows[name].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        parts = PCA(min(COMPONENTS, flat.shape[1]), random_state=0).fit_transform(flat.astype(np.float64))
        return StandardScaler().fit_transform(parts)
    numeric = [rows[name].to_numpy() for name, kind in features.items() if kind == "numeric"]
    found = [StandardScaler().fit_transform(np.stack(numeric, axis=1).astype(np.float64))]
    categories = [rows[name].to_pylist() for name, kind in features.items() if kind == "category"]
    if categories:
        texts = np.array([[str(value) for value in column] for column in categories]).T
        found.append(OneHotEncoder(sparse_output=False).fit_transform(texts))
    return np.hstack(found)
