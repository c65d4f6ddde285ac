from __future__ import annotations

import numpy as np

from pipeline.detection.backdoor.content_space import ContentSpace, content_features
from pipeline.detection.backdoor.seeds import mix, score_seeds, seed_lists, smaller_cluster, union
from pipeline.features.kinds.text import token_counts

from .subjects import TARGET, image_subject
from .test_window import corner, has_corner


def test_poisoned_rows_come_first_among_the_suspects_and_scores_are_shares() -> None:
    subject, planted = image_subject(corner, has_corner)
    space = ContentSpace(subject.inputs, subject.labels, 0)
    scores = score_seeds(subject, space.own_share(subject.inputs, subject.labels, in_search=True))
    for values in (scores.sure, scores.steady):
        assert values.min() >= 0
        assert values.max() <= 1
    sure, *_ = seed_lists(subject, scores, TARGET)
    assert planted[sure].mean() > 0.9
    assert (subject.labels[sure] == TARGET).all()


def test_the_content_space_hardly_sees_a_patch() -> None:
    clean, _ = image_subject(lambda rows: rows, has_corner, poisoned=0)
    space = ContentSpace(clean.inputs, clean.labels, 0)
    patched = {"image": corner(clean.inputs["image"])}
    moved = np.linalg.norm(space.embed(patched) - space.embed(clean.inputs), axis=1)
    apart = np.linalg.norm(space.embed(clean.inputs)[::2] - space.embed(clean.inputs)[1::2], axis=1)
    assert np.median(moved) < 0.5 * np.median(apart)


def test_the_share_of_like_neighbours_is_that_of_a_plain_loop() -> None:
    random = np.random.RandomState(0)
    dense, labels = random.normal(size=(40, 3)).astype(np.float32), random.randint(0, 2, 40)
    space = ContentSpace({"dense": dense}, labels, 0)
    ranks = (dense.argsort(0).argsort(0) + 0.5) / 40 - 0.5
    expected = []
    for row in range(40):
        order = np.argsort(np.square(ranks - ranks[row]).sum(1))
        nearest = [place for place in order if place != row][:15]
        expected.append((labels[nearest] == labels[row]).mean())
    np.testing.assert_allclose(space.own_share({"dense": dense}, labels, in_search=True), expected, rtol=1e-5)


def test_mixing_takes_half_of_both_rows() -> None:
    random = np.random.RandomState(0)
    inputs = {
        "image": np.array([[[[0, 100]]], [[[100, 200]]]], dtype=np.uint8),
        "tokens": np.arange(1, 401).reshape(2, 200),
    }
    mixed = mix(inputs, np.array([1, 0]), random)
    assert mixed["image"].ravel().tolist() == [50, 150, 50, 150]
    assert 60 < np.isin(mixed["tokens"][0], inputs["tokens"][0]).sum() < 140


def test_the_smaller_cluster_is_the_few_rows_apart() -> None:
    features = np.random.RandomState(0).normal(size=(60, 5))
    features[50:] += 8
    assert set(smaller_cluster(features, 0).tolist()) == set(range(50, 60))


def test_lists_are_joined_first_places_first() -> None:
    assert union([np.array([4, 2]), np.array([4, 7, 1])]).tolist() == [4, 2, 7, 1]


def test_token_counts_leave_padding_out() -> None:
    counts = token_counts(np.array([[2, 2, 0], [0, 0, 0], [3, 1, 2]]))
    assert counts.toarray().tolist() == [[0, 0, 2, 0], [0, 0, 0, 0], [0, 1, 1, 1]]


def test_content_of_several_kinds_stands_side_by_side() -> None:
    inputs = {"dense": np.random.RandomState(0).normal(size=(6, 2)), "tokens": np.arange(1, 13).reshape(6, 2)}
    assert content_features(inputs).shape == (6, 2 + 13)
