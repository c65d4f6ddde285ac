"""Rows of real digits that are copied, nearly or not, under another label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.detection.representation.near_duplicates import count_near_duplicates
from pipeline.features.dense import DENSE
from pipeline.features.kinds.image import IMAGES
from pipeline.features.kinds.text import jaccard
from pipeline.workers.worker import run_data


def test_only_pairs_that_are_alike_in_features_and_inputs_and_contrary_count(detected_run: Path) -> None:
    data = run_data(detected_run)
    rows = data.load_role("train").select(slice(0, 4))
    images = rows.inputs
    assert isinstance(images, torch.Tensor)
    nearly = images.clone()
    nearly[:, 0, 0, 0] ^= 1
    # Neighbours of each row: itself in the train set, and row 5, which shows something else.
    places = np.array([[row, 5] for row in range(4)])
    similarity = np.array([[0.99, 0.99], [0.99, 0.99], [0.97, 0.99], [0.99, 0.99]])
    contrary = np.array([[True, True], [False, True], [True, True], [True, False]])
    changed = type(rows)(nearly, rows.labels, rows.row_ids)
    assert count_near_duplicates(data, changed, similarity, contrary, places).tolist() == [1, 0, 0, 1]


def test_likeness_of_numbers_and_images(detected_run: Path) -> None:
    data = run_data(detected_run)
    a = np.array([[1.0, 2.0], [3.0, 0.0]], dtype=np.float32)
    b = np.array([[1.0, 2.0], [-3.0, 0.0]], dtype=np.float32)
    assert DENSE.likeness(a, b, []).tolist() == [1.0, -1.0]
    mean = round(255 * data.encoding.statistics["image_mean"][0])
    bright = np.full((1, 1, 8, 8), mean + 40, dtype=np.uint8)
    dark = np.full((1, 1, 8, 8), mean - 40, dtype=np.uint8)
    assert IMAGES.likeness(bright, bright, data.encoding.features)[0] == 1
    assert IMAGES.likeness(bright, dark, data.encoding.features)[0] == pytest.approx(-1, abs=0.01)


def test_likeness_of_texts_is_the_share_of_common_tokens_whatever_the_padding() -> None:
    assert jaccard(np.array([2, 3, 4, 0]), np.array([4, 2, 9, 3])) == 3 / 4
    assert jaccard(np.zeros(3), np.zeros(3)) == 1.0
