from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.labels import RowWeight, missing_labels
from pipeline.errors import InputError
from pipeline.tasks.classification import ClassLabel
from pipeline.tasks.regression import TargetLabel


def class_label(column: pa.Array, roles: list[int] | None = None) -> ClassLabel:
    label = ClassLabel("y", str(column.type))
    label.update(column, np.array(roles or [0] * len(column)), lambda row: f"row {row}")
    label.finish()
    return label


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        (pa.array([10, 9, 10, 9], pa.int8()), [9, 10]),
        (pa.array(["10", "9", "10", "9"]), ["10", "9"]),
        (pa.array([True, False, True, False]), [False, True]),
    ],
)
def test_classes_are_sorted_and_keep_their_type(column, classes):
    label = class_label(column)
    assert label.classes == classes
    assert label.class_counts == [2, 2]
    indices = label.encode(column)
    assert indices.dtype == np.int64
    assert indices.tolist() == [classes.index(value) for value in column.to_pylist()]
    assert label.decode(indices).equals(column)


def test_dictionary_labels_are_their_values():
    column = pa.array(["b", "a", "b", "a"]).dictionary_encode()
    label = ClassLabel("y", "string")
    label.update(column, np.zeros(4), str)
    label.finish()
    assert label.encode(column).tolist() == [1, 0, 1, 0]


def test_only_train_rows_make_classes():
    label = class_label(pa.array([1, 2, 1, 2, 2]), [0, 0, 0, 0, 1])
    assert label.class_counts == [2, 2]


def test_a_label_that_train_lacks_is_named_with_its_row():
    with pytest.raises(InputError, match="row 5: the holdout label 7 does not occur in train") as caught:
        class_label(pa.array([1, 2, 1, 2, 1, 7, 7]), [0, 0, 0, 0, 1, 2, 2])
    assert "1 more holdout row" in str(caught.value)


def test_a_class_of_one_row_is_named_with_its_row():
    with pytest.raises(InputError, match="row 2: the only train row of the class 'c'"):
        class_label(pa.array(["a", "a", "c", "b", "b"]))


def test_a_single_class_is_an_error():
    with pytest.raises(InputError, match="label 'y': every train row has the label 3"):
        class_label(pa.array([3, 3, 4]), [0, 0, 1])


def test_encoding_an_unknown_label_is_an_error():
    with pytest.raises(InputError, match="label 8"):
        class_label(pa.array([1, 2, 1, 2])).encode(pa.array([1, 8]))


@pytest.mark.parametrize(
    ("column", "missing"),
    [
        (pa.array([1.0, None, float("nan")]), [False, True, True]),
        (pa.array(["a", None]), [False, True]),
        (pa.array(["a", None]).dictionary_encode(), [False, True]),
        (pa.array([1, None]), [False, True]),
    ],
)
def test_null_and_nan_are_missing(column, missing):
    assert missing_labels(column).tolist() == missing


def test_targets_are_standardised_by_the_train_rows():
    column = pa.array([1.0, 3.0, 8.0, 100.0])
    label = TargetLabel("y", "double")
    assert label.update(column, np.array([0, 0, 0, 1]), str) == []
    label.finish()
    train = np.array([1.0, 3, 8])
    encoded = label.encode(column)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, (column.to_numpy() - train.mean()) / train.std(), rtol=1e-6)
    np.testing.assert_allclose(label.decode(encoded).to_numpy(), column.to_numpy(), rtol=1e-6)


def test_an_infinite_target_is_a_fault():
    (fault,) = TargetLabel("y", "double").update(pa.array([1.0, float("inf")]), np.zeros(2), str)
    assert fault.places.tolist() == [1]


def test_equal_targets_are_an_error():
    label = TargetLabel("y", "double")
    label.update(pa.array([2.5, 2.5, 3.0]), np.array([0, 0, 1]), str)
    with pytest.raises(InputError, match=r"label 'y': every train row has the target 2\.5"):
        label.finish()


def test_weights_have_mean_one_over_train():
    column = pa.array([1, 2, 6, 9])
    weight = RowWeight("w")
    assert weight.update(column, np.array([True, True, True, False])) == []
    weight.finish()
    np.testing.assert_allclose(weight.encode(column), [1 / 3, 2 / 3, 2, 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "what"), [(0.0, "is 0.0"), (-1.0, "is -1.0"), (None, "is null"), (np.inf, "is inf")]
)
def test_weights_have_to_be_positive_and_finite(bad, what):
    column = pa.array([1.0, bad, bad], pa.float64())
    (fault,) = RowWeight("w").update(column, np.ones(3, bool))
    assert fault.places.tolist() == [1, 2]
    assert fault.what == what
