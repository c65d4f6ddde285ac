from __future__ import annotations

import numpy as np

from pipeline.detection.backdoor.pixels import Pixels, bin_shares, find_pixels

from .subjects import TARGET, image_subject, seeds_among

PLACES = np.array([3, 40, 77, 130, 201, 250])
LEVELS = np.array([255, 0, 255, 0, 255, 0], dtype=np.uint8)
PATTERN = Pixels(PLACES, LEVELS, np.array([1, 16, 16]))


def test_scattered_pixels_are_found_with_their_carriers() -> None:
    subject, planted = image_subject(PATTERN.paste, PATTERN.matches)
    found = find_pixels(subject, TARGET, [seeds_among(planted, subject.labels)])[0]
    np.testing.assert_array_equal(found.places, PLACES)
    np.testing.assert_array_equal(found.levels, LEVELS)
    np.testing.assert_array_equal(found.matches(subject.inputs["image"]), planted)


def test_rows_without_anything_in_common_give_no_pattern() -> None:
    subject, planted = image_subject(lambda rows: rows, lambda rows: np.zeros(len(rows), dtype=bool))
    assert find_pixels(subject, TARGET, [seeds_among(planted, subject.labels)]) == []


def test_a_carrier_has_most_of_the_pixels_about_right() -> None:
    rows = np.full((3, 1, 16, 16), 128, dtype=np.uint8)
    flat = rows.reshape(3, -1)
    flat[0, PLACES] = LEVELS
    flat[1, PLACES[:5]] = np.abs(LEVELS[:5].astype(int) - 10)
    flat[2, PLACES[:4]] = LEVELS[:4]
    assert PATTERN.matches(rows).tolist() == [True, True, False]


def test_bin_shares_count_every_row_once() -> None:
    flat = np.random.RandomState(0).randint(0, 256, (50, 7)).astype(np.uint8)
    shares = bin_shares(flat)
    np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-5)
    assert shares[3, 2] == np.float32(((flat[:, 2] >= 48) & (flat[:, 2] < 64)).mean())
