from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.encoded import EncodedData
from pipeline.training.batches import Selection, TrainingRows, balanced_class_weights


@pytest.fixture
def data(detected_run: Path) -> EncodedData:
    return EncodedData.open(detected_run)


def ids_of_epoch(rows: TrainingRows, epoch: int, skip: int = 0) -> list[int]:
    return [i for batch in rows.batches(64, seed=3, epoch=epoch, skip=skip) for i in batch.row_ids.tolist()]


@pytest.mark.parametrize(("budget", "buffer"), [(2**30, 1), (1, 100), (1, 500), (1, 10**6)])
def test_an_epoch_sees_every_row_once_in_memory_and_streamed(
    data: EncodedData, budget: int, buffer: int
) -> None:
    rows = TrainingRows(data, Selection(), budget, buffer)
    sizes = [len(batch) for batch in rows.batches(64, seed=0, epoch=0)]
    assert sizes == [64] * 18 + [48]
    expected = sorted(data.load_role("train").row_ids.tolist())
    assert sorted(ids_of_epoch(rows, 0)) == expected
    assert ids_of_epoch(rows, 0) != ids_of_epoch(rows, 1)
    assert ids_of_epoch(rows, 1) == ids_of_epoch(rows, 1)


@pytest.mark.parametrize("budget", [2**30, 1])
def test_skipping_batches_gives_the_rest_of_the_same_order(data: EncodedData, budget: int) -> None:
    rows = TrainingRows(data, Selection(), budget, 500)
    assert ids_of_epoch(rows, 2, skip=5) == ids_of_epoch(rows, 2)[5 * 64 :]


@pytest.mark.parametrize("budget", [2**30, 1])
def test_a_selection_keeps_rows_and_replaces_labels(data: EncodedData, budget: int) -> None:
    keep = np.zeros(1200, dtype=bool)
    keep[::3] = True
    labels = torch.arange(1200) % 7
    rows = TrainingRows(data, Selection(keep=keep, labels=labels), budget, 500)
    assert rows.count == 400
    ids = data.load_role("train").row_ids.tolist()
    wanted = {ids[i]: i % 7 for i in range(0, 1200, 3)}
    got = {i: y for b in rows.batches(64, 0, 0) for i, y in zip(b.row_ids.tolist(), b.labels.tolist())}
    assert got == wanted


def test_balanced_weights_give_every_class_the_same_total(data: EncodedData) -> None:
    counts = data.encoding.class_counts
    weights = balanced_class_weights(counts)
    totals = weights * torch.tensor(counts)
    assert torch.allclose(totals, totals[:1].expand_as(totals))
    assert totals.sum().item() == pytest.approx(sum(counts))
    rows = TrainingRows(data, Selection(class_weights=weights), 2**30, 1)
    batch = next(rows.batches(32, 0, 0))
    assert batch.weights is not None
    assert torch.equal(batch.weights, weights[batch.labels])
