from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import own_encoder
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config import AuditConfig, Data, validate
from pipeline.errors import InputError
from pipeline.features.encoder import Column
from pipeline.features.pretrained import models, vectors
from pipeline.features.registry import find_kind

TEXTS = ["a good film", "a bad film", "", "a good film", "good bad good"]


@pytest.fixture(autouse=True)
def _kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path))
    models.forget()
    models.identity.cache_clear()
    own_encoder.seen.clear()


def created(encoder: str, kind: str = "text", arrow_type: pa.DataType | None = None, **options: Any) -> Any:
    feature = {"kind": kind, "encoder": encoder}
    data = Data.model_validate({"train": "t", "features": {"x": feature}, "label": "y"} | options)
    word = data.kind_of("x")
    return find_kind(word).create(Column("x", arrow_type or pa.string(), word), data)


def fitted(column: pa.Array, encoder: str = "own_encoder:load", **options: Any) -> Any:
    made = created(encoder, arrow_type=column.type, **options)
    assert made.update(column, np.ones(len(column), dtype=bool)) == []
    made.finish()
    return made


def as_in_a_new_process() -> None:
    vectors.open_vectors.cache_clear()
    own_encoder.seen.clear()


def test_a_text_becomes_what_the_encoder_makes_of_it_standardised_over_train() -> None:
    column, train = pa.array(TEXTS), np.array([1, 1, 1, 0, 0], dtype=bool)
    encoder = created("own_encoder:load")
    assert encoder.update(column, train) == []
    encoder.finish()
    raw = own_encoder.hashed(TEXTS)
    std = raw[train].std(0)
    expected = np.where(std > 0, (raw - raw[train].mean(0)) / np.where(std > 0, std, 1), 0)
    np.testing.assert_allclose(encoder.encode(column), expected, atol=1e-6)
    assert encoder.shape == (own_encoder.WIDTH,)
    assert (encoder.input.name, encoder.judged_as, encoder.shown_as) == ("dense", "lists and texts", "text")


def test_a_text_is_computed_once_whatever_the_column_and_the_process() -> None:
    fitted(pa.array(TEXTS))
    assert sorted(own_encoder.seen) == sorted(set(TEXTS))
    as_in_a_new_process()
    encoder = fitted(pa.array(["new", *TEXTS, None]).dictionary_encode())
    assert own_encoder.seen == ["new"]
    first = encoder.encode(pa.array(TEXTS))
    np.testing.assert_array_equal(encoder.encode(pa.array(TEXTS[::-1])), first[::-1])
    assert own_encoder.seen == ["new"]


def test_a_damaged_file_of_vectors_is_computed_again(tmp_path: Path) -> None:
    before = fitted(pa.array(TEXTS)).encode(pa.array(TEXTS))
    (file,) = (tmp_path / "encoders").rglob("*.arrow")
    content = bytearray(file.read_bytes())
    for change in (content[: len(content) // 2], content[:1200] + b"damaged" + content[1207:]):
        file.write_bytes(change)
        as_in_a_new_process()
        after = fitted(pa.array(TEXTS)).encode(pa.array(TEXTS))
        assert len(own_encoder.seen) == len(set(TEXTS))
        np.testing.assert_array_equal(after, before)
        for other in (tmp_path / "encoders").rglob("*.arrow"):
            other.unlink() if other != file else None


def test_other_code_of_the_encoder_makes_other_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for number in (1, 2):
        (tmp_path / "lengths.py").write_text(
            f"def load(device):\n    return lambda texts: [[{number} * len(text)] for text in texts]\n"
        )
        sys.modules.pop("lengths", None)
        models.identity.cache_clear()
        models.forget()
        found.append(created("lengths:load").values(pa.array(["ab"])).tolist())
    assert found == [[[2.0]], [[4.0]]]


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("own_encoder:flat", r"returns numbers of the shape \[2\] for 2 rows"),
        ("own_encoder:infinite", "returns NaN or infinity, first for row 1 of 2"),
        ("own_encoder:failing", r"own_encoder:failing fails \(RuntimeError: no memory for 2 texts\)"),
        ("own_encoder:unloadable", r"can't be loaded \(OSError: no weights for cpu\)"),
        ("own_encoder:absent", r"own_encoder:absent can't be imported \(AttributeError"),
        ("own_encoder:WIDTH", "own_encoder:WIDTH is no function"),
    ],
)
def test_an_encoder_that_cannot_be_used_is_named_with_its_key(encoder: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"data\.features\.x\.encoder: .*{said}"):
        created(encoder).values(pa.array(["a", "b"]))


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(
        InputError, match=r"data\.features\.x\.encoder: 'some-model' needs .* not installed"
    ) as found:
        created("some-model")
    assert "pip install 'winnow[encoders]'" in str(found.value)


def png(colour: tuple[int, int, int], size: tuple[int, int] = (4, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def test_pictures_of_any_size_are_given_as_rgb_and_one_that_cannot_be_read_is_a_fault() -> None:
    grey = io.BytesIO()
    Image.new("L", (5, 5), 7).save(grey, "PNG")
    column = pa.array([png((1, 2, 3)), png((4, 5, 6), (9, 2)), grey.getvalue()], pa.binary())
    encoder = created("own_encoder:colours", "image", column.type)
    np.testing.assert_allclose(encoder.values(column), [[1, 2, 3], [4, 5, 6], [7, 7, 7]])
    broken = pa.array([column[0].as_py(), b"nonsense", None], pa.binary())
    (fault,) = encoder.update(broken, np.ones(3, dtype=bool))
    assert (fault.places.tolist(), fault.what) == ([1, 2], "does not decode as an image")


def test_a_picture_that_cannot_be_read_is_the_mean_where_gaps_are_imputed() -> None:
    column = pa.array([png((0, 0, 0)), b"nonsense", png((2, 4, 6))], pa.binary())
    encoder = created("own_encoder:colours", "image", column.type, missing_features="impute")
    assert encoder.update(column, np.ones(3, dtype=bool)) == []
    encoder.finish()
    np.testing.assert_allclose(encoder.encode(column), [[-1] * 3, [0] * 3, [1] * 3])


def test_pixels_in_lists_have_the_shape_of_their_metadata() -> None:
    pixels = np.arange(2 * 3 * 2 * 3, dtype=np.uint8).reshape(2, 3, 2, 3)
    column = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 18)
    data = Data.model_validate(
        {"train": "t", "features": {"x": {"kind": "image", "encoder": "own_encoder:colours"}}, "label": "y"}
    )
    of = Column("x", column.type, "encoded image", {b"image_shape": b"[3, 2, 3]"})
    found = find_kind("encoded image").create(of, data).values(column)
    np.testing.assert_allclose(found, pixels.mean((1, 2)))


def test_a_state_that_was_saved_gives_the_same_encoder() -> None:
    import dataclasses
    import json

    encoder = fitted(pa.array(TEXTS))
    state = json.loads(json.dumps(dataclasses.asdict(encoder)))
    again = find_kind(encoder.kind)(**state)
    np.testing.assert_array_equal(again.encode(pa.array(TEXTS)), encoder.encode(pa.array(TEXTS)))


def test_a_text_without_letters_is_broken_where_few_are() -> None:
    column = pa.array(["words"] * 40 + ["!! 12"])
    encoder = fitted(column)
    assert np.flatnonzero(encoder.broken(*encoder.marks(column))).tolist() == [40]


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ({"kind": "sound", "encoder": "m"}, "`data.features.x.kind` is 'sound'"),
        ({"kind": "text"}, "`data.features.x.encoder` is missing"),
        ({"kind": "text", "encoder": "m", "widht": 3}, "unknown key `data.features.x.widht`"),
        ({"kind": "image", "encoder": "clip"}, "data.features.x: an encoder of images is a function"),
        (
            {"kind": "text", "encoder": "m:f", "finetune": 1},
            "data.features.x: `finetune` is for texts and a model",
        ),
        ({"kind": "text", "encoder": "m", "finetune": 0}, "data.features.x.finetune"),
        ("encoded text", "`data.features.x` is 'encoded text': not auto, boolean"),
    ],
)
def test_a_section_that_makes_no_sense_is_named(feature: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        validate({"name": "n", "data": {"train": "t", "features": {"x": feature}, "label": "y"}}, "c.yaml")


def test_a_config_with_a_section_is_the_same_when_it_is_read_again() -> None:
    feature = {"kind": "text", "encoder": "m", "download": True, "finetune": 2}
    tree = {"name": "n", "data": {"train": "t", "features": {"x": feature}, "label": "y"}}
    config = validate(tree, "c.yaml")
    assert AuditConfig.model_validate(config.as_dict()) == config
    assert config.as_dict()["data"]["features"]["x"] == feature
