from __future__ import annotations

import numpy as np
import pytest

from pipeline.detection.backdoor.additive import Additive, Separator, Whitening, find_additive

from .subjects import TARGET, image_subject, seeds_among

SHARE = 0.2
PICTURE = np.random.RandomState(5).randint(0, 2, (1, 16, 16)) * 255.0
DIRECTION = PICTURE - PICTURE.mean()


def blend(rows: np.ndarray) -> np.ndarray:
    return ((1 - SHARE) * rows + SHARE * PICTURE).round().astype(np.uint8)


def along(rows: np.ndarray) -> np.ndarray:
    return (rows * DIRECTION).sum((1, 2, 3)) / np.square(DIRECTION).sum()


def test_a_blended_picture_is_found_with_its_carriers_and_share() -> None:
    subject, planted = image_subject(blend, lambda rows: along(rows) > SHARE / 2, poisoned=40)
    found = find_additive(subject, TARGET, [seeds_among(planted, subject.labels, true=8)])[0]
    np.testing.assert_array_equal(found.matches(subject.inputs["image"]), planted)
    assert found.separation > 6
    assert found.gap > 0
    assert found.share == pytest.approx(SHARE, abs=0.05)
    added = (found.added * 255 - found.added.mean() * 255).ravel()
    assert np.corrcoef(added, DIRECTION.ravel())[0, 1] > 0.9


def test_a_class_without_a_blend_gives_none() -> None:
    subject, planted = image_subject(lambda rows: rows, lambda rows: np.zeros(len(rows), dtype=bool))
    lists = [seeds_among(planted, subject.labels), np.flatnonzero(subject.labels == TARGET)[-12:]]
    assert [p for p in find_additive(subject, TARGET, lists) if p.separation >= 6 and p.gap > 0] == []


@pytest.mark.parametrize(("rows", "width"), [(200, 20), (15, 60)], ids=["more rows", "more pixels"])
def test_whitening_is_the_inverse_of_the_ridged_covariance(rows: int, width: int) -> None:
    values = np.random.RandomState(0).normal(size=(rows, width)).astype(np.float32)
    covariance = np.cov(values.T.astype(np.float64), bias=True)
    covariance += (0.01 * np.trace(covariance) / width + 1e-8) * np.eye(width)
    vectors = np.random.RandomState(1).normal(size=(3, width)).astype(np.float32)
    solved = Whitening(values).solve(vectors)
    np.testing.assert_allclose(solved @ covariance, vectors, rtol=1e-2, atol=1e-3)


def test_a_seed_is_kept_when_a_direction_of_the_other_seeds_puts_it_beyond_the_threshold() -> None:
    random = np.random.RandomState(0)
    other, own = random.normal(size=(400, 12)), random.normal(size=(60, 12))
    own[:4] += 3.0
    own[4, 0] += 12.0  # far out, but in a direction of its own
    own, other = own.astype(np.float32), other.astype(np.float32)
    seeds = np.array([0, 1, 2, 3, 4, 30, 31])
    covariance = np.cov(other[::2].T.astype(np.float64), bias=True)
    covariance += (0.01 * np.trace(covariance) / 12 + 1e-8) * np.eye(12)
    expected = []
    for seed in seeds:
        others = own[[each for each in seeds if each != seed]]
        weights = np.linalg.solve(covariance, others.mean(0) - other[::2].mean(0))
        if own[seed] @ weights > np.quantile(other[1::2] @ weights, 0.999):
            expected.append(seed)
    assert set(expected) >= {0, 1, 2, 3}
    np.testing.assert_array_equal(Separator(own, other, random).true_seeds(seeds), expected)


def test_pasting_blends() -> None:
    pattern = Additive(np.zeros((1, 2, 2)), np.full((1, 2, 2), 0.1, np.float32), 0.5, 0.0, 9.0, 1.0)
    assert pattern.paste(np.full((1, 1, 2, 2), 100, np.uint8)).ravel().tolist() == [76] * 4  # 50 + 25.5
