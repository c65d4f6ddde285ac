from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attribution.objectives.random_labels import mix, random_signs, row_uniforms

_MASK = (1 << 64) - 1


def splitmix64(value: int) -> int:
    """The published generator's output function, in Python's unbounded integers."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@given(st.integers(-(2**63), 2**63 - 1))
def test_mixing_is_splitmix64(value: int) -> None:
    assert int(mix(torch.tensor(value))) & _MASK == splitmix64(value & _MASK)


def test_published_value() -> None:
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert int(mix(torch.tensor(0))) & _MASK == 0xE220A8397B1DCDAF


def test_a_rows_number_depends_on_nothing_but_seed_checkpoint_and_row() -> None:
    rows = torch.randint(-(2**62), 2**62, (50,))
    together = row_uniforms(rows, seed=3, checkpoint=2)
    alone = torch.cat([row_uniforms(row[None], seed=3, checkpoint=2) for row in rows.flip(0)]).flip(0)
    assert torch.equal(together, alone)
    assert (together != row_uniforms(rows, seed=4, checkpoint=2)).all()
    assert (together != row_uniforms(rows, seed=3, checkpoint=1)).all()


def test_numbers_are_uniform_and_uncorrelated_between_neighbours() -> None:
    rows = torch.arange(20_000)
    first, second = (row_uniforms(rows, seed=0, checkpoint=c) for c in (0, 1))
    assert ((first >= 0) & (first < 1)).all()
    counts = torch.histc(first, 20, 0, 1)
    assert (
        counts - 1000
    ).square().sum() / 1000 < 45  # chi-squared with 19 degrees, beyond its 99.9th percentile
    for other in (second, first.roll(1)):
        assert abs(torch.corrcoef(torch.stack([first, other]))[0, 1]) < 0.03


def test_signs_are_balanced_and_independent() -> None:
    signs = random_signs(row_uniforms(torch.arange(20_000), seed=0, checkpoint=0), 3)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    covariance = signs.T @ signs / len(signs)
    torch.testing.assert_close(covariance, torch.eye(3, dtype=torch.float64), atol=0.03, rtol=0)
    assert signs.mean(0).abs().max() < 0.03
