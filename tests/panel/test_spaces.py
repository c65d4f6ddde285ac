"""Features of judges, against scikit-learn's own."""

from __future__ import annotations

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from pipeline.features.pictures import judged_pixels
from pipeline.panel.feature_blocks import Blocks
from pipeline.panel.judges import Fitted, choose_judges
from pipeline.panel.ngrams import text_blocks
from pipeline.panel.spaces import LinearSpace, TextSpace, TreeSpace

TEXTS = ["The match, the goal.", "A goal for the team", "", "the market and the bank", "银行市场", None]


def blocks(wide: np.ndarray | None = None) -> Blocks:
    texts = {f"review/{part}": matrix for part, matrix in text_blocks(TEXTS).items()}
    return Blocks(texts, {}, {}, {} if wide is None else {"picture/pixels": wide})


def test_words_are_the_tf_idf_of_scikit_learn() -> None:
    peer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    expected = peer.fit_transform([text or "" for text in TEXTS])
    given = blocks()
    space = TextSpace(2)
    space.fit(given, 0)
    found = space.transform(given)[:, : expected.shape[1]]
    np.testing.assert_allclose((found @ found.T).toarray(), (expected @ expected.T).toarray(), atol=1e-6)


def test_words_of_a_script_without_spaces_are_signs_and_their_pairs() -> None:
    words = text_blocks(["银行市场", "银 行 市 场", "<p>银行</p>市场"])["words"]
    assert words[0].nnz == 4 + 3
    for other in (1, 2):
        assert (words[0] != words[other]).nnz == 0


def test_what_was_not_fitted_on_is_left_out() -> None:
    given = blocks()
    space = TextSpace(2)
    space.fit(given.select(np.array([0, 1])), 0)
    width = space.transform(given).shape[1]
    assert width < space.transform(given).shape[0] * 100
    assert space.transform(given.select(np.array([4]))).nnz == 0


def test_blocks_keep_their_rows_through_selecting_and_joining() -> None:
    given = blocks(np.arange(12.0, dtype=np.float32).reshape(6, 2))
    parts = [given.select(np.array([0, 1, 2])), given.select(np.array([3, 4, 5]))]
    joined = Blocks.concatenate(parts)
    assert len(joined) == 6
    np.testing.assert_array_equal(joined.wide["picture/pixels"], given.wide["picture/pixels"])
    assert (joined.texts["review/words"] != given.texts["review/words"]).nnz == 0
    assert given.without(["review"]).texts == {}


def test_wide_blocks_become_components() -> None:
    values = np.random.RandomState(0).normal(size=(200, 300)).astype(np.float32)
    given = Blocks({}, {}, {}, {"picture/pixels": values})
    for space in (LinearSpace(3), TreeSpace(3)):
        space.fit(given, 0)
        assert space.transform(given).shape == (200, 60)


def test_large_images_are_averaged_over_squares() -> None:
    images = np.random.RandomState(0).randint(0, 256, (2, 3, 64, 96), dtype=np.uint8)
    found = judged_pixels(images).reshape(2, 3, 21, 32)
    np.testing.assert_allclose(found[0, 1, 2, 5], images[0, 1, 6:9, 15:18].mean() / 255, rtol=1e-5)
    small = images[:, :, :8, :8]
    np.testing.assert_allclose(judged_pixels(small), small.reshape(2, -1) / 255, rtol=1e-5)
    assert judged_pixels(np.ones((1, 1, 500, 3), np.uint8)).shape[1] > 0


def test_classes_in_small_components_of_a_list_are_seen_by_the_finer_judge() -> None:
    """Eighty columns are noise of a large deviation; the classes lie in the columns after them."""
    random = np.random.RandomState(0)
    labels = np.arange(600) % 12
    values = random.normal(size=(600, 200)) * np.where(np.arange(200) < 80, 1.0, 0.3)
    values[np.arange(600), 80 + labels] += 2.5
    given = Blocks({}, {}, {}, {"vector/list": values.astype(np.float32)})
    judges = {judge.name: judge for judge in choose_judges(given, "classification", 12)}
    right = {}
    for name in ("linear", "linear_fine"):
        fitted = Fitted(judges[name], given.select(np.arange(400)), labels[:400], "classification", 12, 0)
        opinions = fitted.judge(given.select(np.arange(400, 600)))
        right[name] = (opinions.argmax(1) == labels[400:]).mean()
    assert right["linear_fine"] > 0.8 > right["linear"] + 0.2


def test_narrow_lists_and_pixels_have_no_finer_judge() -> None:
    values = np.zeros((20, 300), np.float32)
    for blocks in ({"vector/list": values[:, :100]}, {"picture/pixels": values}):
        names = [judge.name for judge in choose_judges(Blocks({}, {}, {}, blocks), "classification", 2)]
        assert "linear_fine" not in names
