from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import Split
from pipeline.data.hashing import key_ids
from pipeline.data.splits import NONE, asked_roles, mix, roles_by_column, roles_by_fractions

IDS = key_ids([str(i) for i in range(20_000)])


def fractions(*shares: float, seed: int = 0) -> Split:
    return Split.model_validate({"fractions": shares, "seed": seed})


def test_shares_are_as_asked():
    codes = roles_by_fractions(IDS, fractions(0.7, 0.2, 0.1))
    shares = np.bincount(codes, minlength=3) / len(IDS)
    # four standard deviations of a binomial share are at most 0.0142
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.0142)


@pytest.mark.parametrize("shares", [(1, 0, 0), (0.9, 0.1, 0), (0.7, 0, 0.3)])
def test_a_share_of_zero_gets_no_row(shares):
    codes = roles_by_fractions(IDS, fractions(*shares))
    assert set(codes.tolist()) == {code for code, share in enumerate(shares) if share}


def test_a_row_keeps_its_role_when_others_come():
    split = fractions(0.5, 0.3, 0.2)
    np.testing.assert_array_equal(roles_by_fractions(IDS[:100], split), roles_by_fractions(IDS, split)[:100])


def test_another_seed_is_an_independent_draw():
    one, other = (roles_by_fractions(IDS, fractions(0.5, 0.5, 0, seed=seed)) for seed in (0, 1))
    assert abs((one == other).mean() - 0.5) < 0.0142


def test_mix_is_splitmix64():
    # the first outputs of the published generator from state 0
    states = np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64)
    with np.errstate(over="ignore"):
        assert [hex(value) for value in mix(states).tolist()] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (pa.array(["a", "c", "b", "a"]), ("a", "b", "c")),
        (pa.array([0, 2, 1, 0]), ("0", "1", "2")),
        (pa.array(["a", "c", "b", "a"]).dictionary_encode(), ("a", "b", "c")),
    ],
)
def test_a_column_names_the_roles(column, names):
    split = Split(column="s", train=names[0], validation=names[1], holdout=names[2])
    codes, faults = roles_by_column(column, split)
    assert codes.tolist() == [0, 2, 1, 0]
    assert faults == []


def test_a_value_that_names_no_role_is_a_fault():
    codes, (fault,) = roles_by_column(pa.array(["train", "dev", None]), Split(column="s"))
    assert codes.tolist() == [0, NONE, NONE]
    assert fault.places.tolist() == [1, 2]
    assert fault.what == "is 'dev', which names no role"
    assert "'validation'" in fault.hint


def test_roles_that_must_have_rows():
    assert asked_roles(None, (True, False, True)) == ["train", "holdout"]
    assert asked_roles(fractions(0.8, 0.2, 0), (True, False, False)) == ["train", "validation"]
    assert asked_roles(Split(column="s"), (True, False, False)) == ["train"]
