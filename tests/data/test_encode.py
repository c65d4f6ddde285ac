from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.data.encode import Encoding
from pipeline.detection.backdoor.subject import names_of
from pipeline.features.encoder import Column

COLUMNS = {
    "n": pa.array([1.0, 3.0, 5.0]),
    "b": pa.array([True, False, True]),
    "c": pa.array(["u", "v", "u"]),
    "l": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]], pa.list_(pa.float32(), 2)),
    "t": pa.array(["good film", "bad film", "film"]),
    "s": pa.array(["no film", None, "film plot"]),
    "i": pa.array([[0, 255, 9, 3], [1, 2, 3, 4], [5, 6, 7, 8]], pa.list_(pa.uint8(), 4)),
    "y": pa.array(["p", "q", "p"]),
    "w": pa.array([1.0, 2.0, 3.0]),
}
KINDS = {"n": "numeric", "b": "boolean", "c": "category", "l": "list", "t": "text", "s": "text", "i": "image"}
BATCH = pa.record_batch(COLUMNS)


def fitted(names: str, label: str = "y", task: str = "classification", weight: str | None = None) -> Encoding:
    kinds = {name: KINDS[name] for name in names}
    data = Data.model_validate(
        {"train": "t", "features": kinds, "label": label, "weight": weight, "max_tokens": 4, "vocabulary": 9}
    )
    columns = [Column(name, COLUMNS[name].type, kind) for name, kind in kinds.items()]
    encoding = Encoding.create(columns, task, COLUMNS[label].type, data)
    batch = pa.concat_batches([BATCH, BATCH])
    train = np.ones(len(batch), bool)
    for encoder in encoding.features:
        encoder.update(batch.column(encoder.column), train)
    encoding.label.update(batch.column(label), np.zeros(len(batch)), str)
    if encoding.weight:
        encoding.weight.update(batch.column(encoding.weight.column), train)
    encoding.finish()
    return encoding


def test_dense_joins_its_columns_in_the_order_of_the_config():
    encoding = fitted("bcnl")
    parts = [encoder.encode(BATCH.column(encoder.column)) for encoder in encoding.features]
    assert [encoder.column for encoder in encoding.features] == ["b", "c", "n", "l"]
    np.testing.assert_array_equal(encoding.encode_inputs(BATCH)["dense"], np.concatenate(parts, axis=1))
    assert encoding.input_shapes == {"dense": (1 + 3 + 1 + 2,)}


def test_each_kind_of_input_stands_alone():
    encoding = fitted("ntib", weight="w")
    arrays = encoding.encode(BATCH)
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "dense": ("float32", (3, 2)),
        "tokens": ("int32", (3, 4)),
        "image": ("uint8", (3, 1, 2, 2)),
        "labels": ("int64", (3,)),
        "weights": ("float32", (3,)),
    }
    assert encoding.input_shapes == {"dense": (2,), "image": (1, 2, 2), "tokens": (4,)}


def test_facts_for_the_model():
    encoding = fitted("ti")
    assert (encoding.task, encoding.outputs, encoding.classes, encoding.class_counts) == (
        "classification",
        2,
        ["p", "q"],
        [4, 2],
    )
    assert encoding.statistics["vocabulary_size"] == 5  # film, bad, good, padding, unknown
    pixels = np.array(COLUMNS["i"].to_pylist()) / 255
    np.testing.assert_allclose(encoding.statistics["image_mean"], [pixels.mean()])
    np.testing.assert_allclose(encoding.statistics["image_std"], [pixels.std()])


def test_texts_stand_side_by_side_with_numbers_of_their_own(tmp_path):
    encoding = fitted("ts")
    rows = encoding.encode_inputs(BATCH)["tokens"]
    film, bad, good = 2, 3, 4
    film_2, no_2, plot_2 = 5, 6, 7
    assert rows.tolist() == [
        [good, film, 0, 0, no_2, film_2, 0, 0],
        [bad, film, 0, 0, 0, 0, 0, 0],
        [film, 0, 0, 0, film_2, plot_2, 0, 0],
    ]
    assert encoding.input_shapes == {"tokens": (8,)}
    assert encoding.statistics["vocabulary_size"] == 8
    assert [names_of(encoding).token(number) for number in (2, 5, 7)] == ["film", "film", "plot"]
    encoding.save(tmp_path / "encoding.json")
    np.testing.assert_array_equal(
        Encoding.load(tmp_path / "encoding.json").encode_inputs(BATCH)["tokens"], rows
    )


def test_regression_has_one_output():
    encoding = fitted("b", label="n", task="regression")
    assert (encoding.outputs, encoding.classes) == (1, [])
    np.testing.assert_allclose(encoding.decode_labels(encoding.encode(BATCH)["labels"]), [1, 3, 5], rtol=1e-6)


def test_a_saved_encoding_encodes_the_same(tmp_path):
    for encoding in (fitted("nbclti", weight="w"), fitted("b", label="n", task="regression")):
        encoding.save(tmp_path / "encoding.json")
        loaded = Encoding.load(tmp_path / "encoding.json")
        assert (loaded.task, loaded.classes, loaded.class_counts) == (
            encoding.task,
            encoding.classes,
            encoding.class_counts,
        )
        assert loaded.input_shapes == encoding.input_shapes
        assert loaded.statistics == encoding.statistics
        expected = encoding.encode(BATCH)
        found = loaded.encode(BATCH)
        assert {name: array.tobytes() for name, array in found.items()} == {
            name: array.tobytes() for name, array in expected.items()
        }


def test_labels_come_back_in_the_type_of_the_source():
    assert fitted("n").decode_labels(np.array([1, 0])).equals(pa.array(["q", "p"]))
