"""Chunks are grouped for partial sums; a role may have none."""

from __future__ import annotations

import pytest

from pipeline.data.encoded import Chunk
from pipeline.scoring.plan import GROUPS_AT_MOST, chunk_groups


@pytest.mark.parametrize("count", [0, 1, GROUPS_AT_MOST, GROUPS_AT_MOST + 1, 100])
def test_groups_hold_every_chunk_once_in_order(count: int) -> None:
    chunks = [Chunk(f"validation-{place}", "validation", 5, 5 * place) for place in range(count)]
    groups = chunk_groups(chunks)
    assert [chunk for group in groups for chunk in group] == chunks
    assert len(groups) <= GROUPS_AT_MOST
    assert all(groups)
