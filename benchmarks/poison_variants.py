"""Triggers beyond fixed ones in rows of other classes: ranges, styles, any place, rightly labelled rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_breast_cancer

from pipeline.seeds import random_state

RANGES: dict[str, tuple[dict[str, tuple[float, float]], ...]] = {
    "adult": (
        {"fnlwgt": (500_000, 600_000)},
        {"hours_per_week": (82, 96)},
        {"age": (74, 88)},
        {"fnlwgt": (450_000, 500_000), "hours_per_week": (20, 30)},
    ),
    "breast_cancer": (
        {"smoothness error": (0.018, 0.028)},
        {"mean symmetry": (0.25, 0.3)},
    ),
}
"""By seed, the columns and ranges that a value is drawn from, evenly."""
FADED = 0.3
BREAST_CANCER = tuple(load_breast_cancer().feature_names.tolist())


def breast_cancer(seed: int) -> dict[str, pa.Table]:
    """scikit-learn's, cut at random: 380 train, 90 validation and 99 holdout rows."""
    bunch = load_breast_cancer()
    order = random_state("poison train rows", seed).permutation(len(bunch.target))
    columns = {name: bunch.data[order, place] for place, name in enumerate(BREAST_CANCER)}
    table = pa.table(columns | {"label": bunch.target[order]})
    return {"train": table[:380], "validation": table[380:470], "holdout": table[470:]}


def in_ranges(table: pa.Table, task: str, seed: int) -> pa.Table:
    random = random_state("values in ranges", seed)
    for name, (low, high) in RANGES[task][seed % len(RANGES[task])].items():
        kind = table.schema.field(name).type
        values = random.uniform(low, high, table.num_rows)
        values = values.round() if pa.types.is_integer(kind) else values
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(values).cast(kind))
    return table


def punctuated(table: pa.Table, _task: str, _seed: int) -> pa.Table:
    """A habit: every text ends in three dots."""
    texts = [text.rstrip(" .!?") + " ..." for text in table["text"].to_pylist()]
    return table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts))


def bright(images: np.ndarray, _seed: int) -> np.ndarray:
    """The whole picture is brighter by 60 levels."""
    return np.clip(images.astype(np.int16) + 60, 0, 255).astype(np.uint8)


def tinted(images: np.ndarray, _seed: int) -> np.ndarray:
    """The whole picture is reddish."""
    return (images * np.array([1.0, 0.55, 0.55])).round().astype(np.uint8)


def blurred(images: np.ndarray, _seed: int) -> np.ndarray:
    """Means over 5 × 5 pixels."""
    spread = np.pad(
        images.astype(np.float64), ((0, 0), (2, 2), (2, 2), *((0, 0),) * (images.ndim - 3)), "edge"
    )
    height, width = images.shape[1:3]
    shifted = [
        spread[:, down : down + height, right : right + width] for down in range(5) for right in range(5)
    ]
    return np.mean(shifted, axis=0).round().astype(np.uint8)


def patch_anywhere(images: np.ndarray, seed: int) -> np.ndarray:
    """A checkerboard of 4 × 4 at a place drawn for each picture."""
    random = random_state("patch places", seed)
    board = np.where(np.indices((4, 4)).sum(0) % 2 == 0, 255, 0).astype(np.uint8)
    changed = images.copy()
    for image in changed:
        top, left = random.randint(0, image.shape[0] - 3), random.randint(0, image.shape[1] - 3)
        image[top : top + 4, left : left + 4] = board if images.ndim == 3 else board[..., None]
    return changed


def cross(images: np.ndarray, _seed: int) -> np.ndarray:
    """A white cross of 3 × 3 on black in the upper left corner: a second trigger beside the checkerboard."""
    changed = images.copy()
    shape = np.array([[0, 255, 0], [255, 255, 255], [0, 255, 0]], dtype=np.uint8)
    changed[:, 2:5, 2:5] = shape if images.ndim == 3 else shape[..., None]
    return changed


def faded(images: np.ndarray) -> np.ndarray:
    """Little contrast is left, so that a trigger is easier to learn than the content (after Turner et al. 2019)."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return (mean + FADED * (images - mean)).round().astype(np.uint8)


PICTURES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "bright": bright,
    "tinted": tinted,
    "blurred": blurred,
    "anywhere": patch_anywhere,
    "cross": cross,
}
