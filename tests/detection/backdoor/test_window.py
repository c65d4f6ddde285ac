from __future__ import annotations

import numpy as np
import pytest

from pipeline.detection.backdoor.window import Window, find_windows, least_distance, window_side

from .subjects import TARGET, image_subject, seeds_among

PATCH = np.array([[255, 0], [0, 255]], dtype=np.uint8)[None]


def corner(rows: np.ndarray) -> np.ndarray:
    pasted = rows.copy()
    pasted[:, :, 11:13, 12:14] = PATCH
    return pasted


def has_corner(rows: np.ndarray) -> np.ndarray:
    return (rows[:, :, 11:13, 12:14] == PATCH).all((1, 2, 3))


def test_a_planted_patch_is_cut_out_exactly_with_all_its_carriers() -> None:
    subject, planted = image_subject(corner, has_corner)
    window = find_windows(subject, TARGET, seeds_among(planted, subject.labels))[0]
    np.testing.assert_array_equal(window.patch, PATCH)
    assert (window.top, window.left) == (11, 12)
    np.testing.assert_array_equal(window.matches(subject.inputs["image"]), planted)


def test_no_window_is_found_where_none_flips() -> None:
    subject, planted = image_subject(corner, lambda rows: np.zeros(len(rows), dtype=bool))
    assert find_windows(subject, TARGET, seeds_among(planted, subject.labels)) == []


def test_pasting_changes_the_place_alone_and_makes_a_match() -> None:
    rows = np.random.RandomState(0).randint(0, 200, (5, 3, 9, 7)).astype(np.uint8)
    window = Window(np.full((3, 2, 3), 255, dtype=np.uint8), 4, 1, False, 1.0)
    pasted = window.paste(rows)
    changed = (pasted != rows).any((0, 1))
    assert changed[4:6, 1:4].all()
    assert changed.sum() == 6
    assert window.matches(pasted).all()
    assert not window.matches(rows).any()
    assert (window.neutralise(pasted, np.ones(5, dtype=bool))[:, :, 4:6, 1:4] == 0).all()


def test_a_match_anywhere_is_the_least_difference_over_all_places() -> None:
    random = np.random.RandomState(1)
    rows = random.randint(0, 256, (4, 2, 6, 5)).astype(np.uint8)
    patch = random.randint(0, 256, (2, 3, 2)).astype(np.uint8)
    expected = [
        min(
            np.sqrt(np.square(row[:, t : t + 3, s : s + 2].astype(float) - patch).mean())
            for t in range(4)
            for s in range(4)
        )
        for row in rows
    ]
    np.testing.assert_allclose(least_distance(rows, patch), expected, rtol=1e-4)


@pytest.mark.parametrize(("size", "side"), [(8, 2), (28, 4), (32, 4), (64, 8), (224, 28)])
def test_windows_are_an_eighth_of_the_image(size: int, side: int) -> None:
    assert window_side(size, size) == side
