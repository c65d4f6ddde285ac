from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.detection.judges.label_sets import Pairs, flipped, of_main_run
from pipeline.detection.noise.flag_counts import count_rows_of_pairs
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.representation.neighbours import margins
from pipeline.detection.signals.sets import pair_suspicion, row_signals
from pipeline.tasks.multilabel import MULTILABEL

ROWS, LABELS = 50, 3


class Epoch:
    """A file of measurements that has one column."""

    def __init__(self, logits: np.ndarray):
        self._logits = torch.from_numpy(logits)

    def read(self, _name: str, start: int, stop: int) -> torch.Tensor:
        return self._logits[start:stop]


def pairs(wrong: list[tuple[int, int]], halves: bool = True) -> Pairs:
    """Evidence that is clear but for chance, against the wrong pairs."""
    random = np.random.RandomState(0)
    given = (random.rand(ROWS, LABELS) < 0.4).astype(np.uint8)
    sign = np.ones((ROWS, LABELS))
    for row, label in wrong:
        sign[row, label] = -1
    margin = (sign * (2 + random.rand(ROWS, LABELS))).astype(np.float32)
    own = (1 / (1 + np.exp(-margin))).astype(np.float32)
    return Pairs(given, margin, np.log1p(np.exp(-margin)), own, sign * random.rand(ROWS, LABELS), halves)


def test_margin_and_loss_are_those_of_the_given_answers() -> None:
    random = np.random.RandomState(1)
    given = (random.rand(7, 2) < 0.5).astype(np.uint8)
    logits = random.randn(3, 7, 2).astype(np.float32)
    margin, loss = of_main_run([Epoch(each) for each in logits], given, early=2)  # type: ignore[arg-type]
    chance = 1 / (1 + np.exp(-logits.astype(float)))
    own = np.where(given == 1, chance, 1 - chance)
    np.testing.assert_allclose(margin, np.log(own / (1 - own)).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss, -np.log(own[:2]).mean(0), rtol=1e-4)


def test_wrong_answers_come_first_and_a_row_is_as_suspicious_as_its_worst() -> None:
    wrong = [(4, 2), (9, 0), (30, 1)]
    found = pair_suspicion(pairs(wrong))
    first = np.argsort(-found.reshape(-1))[:3]
    assert {divmod(int(place), LABELS) for place in first} == set(wrong)
    worst = found.argmax(1)
    assert [worst[row] for row, _ in wrong] == [label for _, label in wrong]
    suggested = flipped(pairs(wrong).given, worst)
    assert (suggested != pairs(wrong).given).sum(1).tolist() == [1] * ROWS
    signal = {each.name: each for each in row_signals(pairs(wrong), worst)}
    assert signal["early_margin"].values[4] == pytest.approx(pairs(wrong).margin[4, 2])
    assert "half_confidence" not in {s.name for s in row_signals(pairs(wrong, halves=False), worst)}


def test_rows_are_counted_by_their_most_suspicious_pairs() -> None:
    one = pairs([(4, 2), (4, 0), (9, 0), (30, 1)])  # four answers of three rows
    found, ids = pair_suspicion(one), np.arange(ROWS)
    counts = count_rows_of_pairs(one, found, ids, None, None)
    assert (counts.likely_wrong, counts.review) == (3, 3)
    harm = np.where(ids == 9, 1.0, -1.0)
    assert count_rows_of_pairs(one, found, ids, harm, None).likely_wrong == 1
    few = count_rows_of_pairs(one, found, ids, None, NoiseEstimate(1 / (ROWS * LABELS), 0.0, 1.0))
    assert (few.likely_wrong, few.review) == (1, 3)


def test_the_vote_is_for_each_answer() -> None:
    labels = torch.tensor([[1, 0]], dtype=torch.uint8)
    found = torch.tensor([[[1, 0], [0, 0], [1, 1]]], dtype=torch.uint8)
    votes = margins(torch.tensor([[0.5, 0.25, 0.25]]), found, labels, None)
    # The first label: 3/4 of the weight says yes, 1/4 no. The second: 1/4 yes, and the row says no.
    torch.testing.assert_close(votes, torch.tensor([[0.5, 0.5]]).double(), atol=1e-6, rtol=0)


def test_neighbours_differ_when_any_label_does() -> None:
    labels, found = torch.tensor([[1, 0]]), torch.tensor([[[1, 0], [1, 1], [0, 0]]])
    assert MULTILABEL.contradict(labels[:, None], found).tolist() == [[False, True, True]]
