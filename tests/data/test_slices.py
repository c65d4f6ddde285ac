from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from digits_run import ROOT, digits_config

from pipeline.data.slices import MOST_VALUES, fit_slices
from pipeline.errors import InputError
from pipeline.preflight.check import check


def test_values_that_validation_lacks_are_other_and_nulls_a_slice_of_their_own() -> None:
    column = fit_slices("c", pa.array(["b", "a", None, "a"]))
    assert column.values == ["a", "b", "missing", "other"]
    assert column.codes(pa.array(["a", "new", None, "b"])).tolist() == [0, 3, 2, 1]
    assert column.codes(pa.array(["b", "a"]).dictionary_encode()).tolist() == [1, 0]


def test_of_many_values_the_most_frequent_are_kept() -> None:
    values = [f"v{number}" for number in range(40) for _ in range(40 - number)]
    column = fit_slices("c", pa.array(values))
    assert len(column.values) == MOST_VALUES
    assert set(column.values) == {f"v{number}" for number in range(MOST_VALUES - 1)} | {"other"}


def test_numbers_with_many_values_go_into_bins_of_equal_size() -> None:
    values = np.random.default_rng(0).normal(size=800)
    column = fit_slices("c", pa.array([*values, None]))
    codes = column.codes(pa.array([*values, None, float("nan")]))
    assert np.bincount(codes).tolist() == [100] * 8 + [2]
    assert column.values[-1] == "other"


def test_a_missing_or_nested_slice_column_is_named_by_the_check() -> None:
    data = {
        f"data__{role}": str(ROOT / "data_samples/digits" / role)
        for role in ("train", "validation", "holdout")
    }
    with pytest.raises(InputError, match=r"no column 'imago'") as error:
        check(digits_config(data__slices=["imago"], **data))
    assert "'image'" in (error.value.hint or "")
    with pytest.raises(InputError, match=r"data\.slices: column 'image' is .*no values"):
        check(digits_config(data__slices="image", **data))
    with pytest.raises(InputError, match=r"`slices` names the label"):
        digits_config(data__slices=["label"])
    with pytest.raises(InputError, match=r"no validation rows to cut"):
        check(digits_config(data__slices=["index"], data__validation=None, data__train=data["data__train"]))
