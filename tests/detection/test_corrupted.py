"""Features broken on purpose in a real dataset, and values as they occur in real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digits_run import ROOT

from benchmarks.inline import Inline
from pipeline.config import AuditConfig
from pipeline.data.prepare import prepare
from pipeline.detection.corrupted import corrupted_rows
from pipeline.features.broken_images import is_cut, plain_lines
from pipeline.features.encoder import MOST_SHARE
from pipeline.features.kinds.numeric import impossible
from pipeline.features.kinds.text import says_nothing
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text


def judged(folder: Path, table: pa.Table, features: dict[str, str], **options: object) -> np.ndarray:
    """`corrupted_rows` of a prepared run over the table, whose label column is `label`."""
    pq.write_table(table, folder / "train.parquet")
    data = {"train": str(folder / "train.parquet"), "features": features, "label": "label"} | options
    config = AuditConfig.model_validate({"name": "broken", "data": data, "compute": {"chunk_rows": 400}})
    context = AuditContext(config, RunDirectory(folder / "run"), Inline(config.compute))
    write_text(folder / "run/config.yaml", config.to_yaml())
    prepare(context)
    return corrupted_rows(context)


def test_empty_and_cut_images_are_found_and_no_other(tmp_path: Path) -> None:
    table = pq.read_table(ROOT / "data_samples/digits/train")
    images = np.array(table["image"].to_pylist(), dtype=np.uint8).reshape(-1, 8, 8)
    black, white, half, left = np.random.default_rng(0).permutation(len(images))[:40].reshape(4, 10)
    images[black], images[white] = 0, 255
    images[half, 4:], images[left, :, :5] = 128, 0
    flat = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), 64)
    broken = table.select(["label"]).append_column("image", flat)
    found = judged(tmp_path, broken, {"image": "image"})
    expected = np.zeros(len(images), dtype=bool)
    expected[[*black, *white, *half, *left]] = True
    assert found.tolist() == expected.tolist()


def test_lines_that_are_plain_in_many_images_are_not_missing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 1, 16, 16), dtype=np.uint8)
    pixels[:50, :, :6] = 0  # a quarter has a dark upper third: the dataset's way
    pixels[60, :, :9] = 0
    across, _ = plain_lines(pixels)
    found = is_cut(across, across.mean(0) > MOST_SHARE)
    assert np.flatnonzero(found).tolist() == [60]


def test_flat_and_saturated_lists_are_found_and_no_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.clip(
        rng.normal(size=(400, 12)), -2, 2
    )  # some elements are at the limit in a tenth of the rows
    flat, clipped, lost = rng.permutation(400)[:24].reshape(3, 8)
    values[flat], values[clipped, :7] = rng.normal(size=(8, 1)), 2.0
    column = [
        [None if row in lost and at < 6 else each for at, each in enumerate(line)]
        for row, line in enumerate(values.tolist())
    ]
    table = pa.table({"sensor": column, "label": [0, 1] * 200})
    found = judged(tmp_path, table, {"sensor": "list"}, missing_features="impute")
    assert np.flatnonzero(found).tolist() == sorted([*flat, *clipped, *lost])


def test_what_most_lists_are_like_is_not_held_against_a_row(tmp_path: Path) -> None:
    counts = np.zeros((200, 8))
    counts[:, 0] = np.arange(200) % 7  # mostly zeros, and many of zeros alone
    table = pa.table({"counts": counts.tolist(), "label": [0, 1] * 100})
    assert not judged(tmp_path, table, {"counts": "list"}).any()


def test_impossible_numbers_and_sentinels_stand_alone() -> None:
    rng = np.random.default_rng(0)
    ages = rng.integers(17, 90, size=3000).astype(float)
    assert not impossible(ages).any()
    ages[:7], ages[7] = -999, 1e6
    assert np.flatnonzero(impossible(ages)).tolist() == list(range(8))
    ages[8] = np.nan
    assert np.flatnonzero(impossible(ages)).tolist() == list(range(8))


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).lognormal(0, 3, size=20000),
        np.concatenate([np.zeros(2700), np.random.default_rng(0).gamma(2, 4000, 280), np.full(20, 99999.0)]),
        np.full(500, 3.0),
        np.arange(400) % 2.0,
        np.array([1.0, np.nan]),
    ],
    ids=["heavy tail", "top-coded gains", "constant", "flags", "one value"],
)
def test_numbers_as_they_occur_are_possible(values: np.ndarray) -> None:
    assert not impossible(values).any()


def test_adult_and_messages_are_nearly_free_of_broken_rows(tmp_path: Path) -> None:
    adult = pq.read_table(ROOT / "data_samples/adult/train").slice(0, 2000)
    numbers = dict.fromkeys(("age", "fnlwgt", "capital_gain", "capital_loss", "hours_per_week"), "numeric")
    (tmp_path / "adult").mkdir()
    assert judged(tmp_path / "adult", adult, numbers).sum() == 0
    (tmp_path / "sms").mkdir()
    messages = pq.read_table(ROOT / "data_samples/sms_spam/train")
    found = judged(tmp_path / "sms", messages, {"text": "text"})
    assert found.sum() <= 3
    assert not any(any(map(str.isalpha, text)) for text in messages.filter(found)["text"].to_pylist())


def test_a_text_without_letters_or_known_tokens_says_nothing() -> None:
    texts = pa.array(["see you", ":-)", "", None, "645 !!", "qqzx vvk", "qqzx you", "привет", "👍👍"])
    found = says_nothing(texts, {"see", "you", "!", "привет", "👍"})
    assert found.tolist() == [False, True, True, True, True, True, False, False, False]
