from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.features.kinds import text

from .fitted import create, fit


def test_words_and_punctuation_are_numbered_by_frequency_then_alphabet():
    encoder = fit("text", pa.array(["Good, GOOD film!", "bad film"]))
    assert encoder.vocabulary == ["film", "good", "!", ",", "bad"]


def test_rows_are_padded_with_zero_cut_and_unknown_tokens_are_one():
    encoder = fit("text", pa.array(["a b a b c"]), max_tokens=3)
    encoded = encoder.encode(pa.array(["b", "a x b b b", ""]))
    assert encoded.dtype == np.int32
    assert encoded.tolist() == [[3, 0, 0], [2, 1, 3], [0, 0, 0]]


def test_only_the_most_frequent_tokens_are_kept():
    encoder = fit("text", pa.array(["a a a b b c"]), vocabulary=2)
    assert encoder.encode(pa.array(["a b c"]))[0, :3].tolist() == [2, 3, 1]


def test_only_train_rows_make_the_vocabulary():
    encoder = fit("text", pa.array(["seen", "hidden"]), np.array([True, False]))
    assert encoder.vocabulary == ["seen"]


def test_words_of_other_scripts_are_words():
    assert fit("text", pa.array(["Straße 東京 ÉTÉ"])).vocabulary == ["straße", "été", "京", "東"]


def test_rare_tokens_are_forgotten_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(text, "MOST_COUNTED", 4)
    encoder = create("text", pa.string())
    for batch in (["a a b c d e f"], ["a b g h i j"]):
        encoder.update(pa.array(batch), np.ones(1, bool))
    encoder.finish()
    assert encoder.vocabulary[:2] == ["a", "b"]
    assert len(encoder.vocabulary) <= 4


def test_a_null_is_an_empty_text():
    encoder = fit("text", pa.array(["a", None]))
    assert not encoder.encode(pa.array([None], pa.string())).any()
