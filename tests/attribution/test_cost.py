"""Guards against regressions by counting calls and operations; nothing is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.attribution import (
    Batch,
    cross_entropy,
    mean_gradient_sums,
    prepare_segment,
    query_filters,
    score_rows,
    source_spectrum,
)
from pipeline.attribution.curvature import fit

from .models import perturbed_states
from .oracles import split

ENTROPY = cross_entropy()
CHECKPOINTS = 6


class Audit:
    """An MLP 96-64-32-10 with six checkpoints, 256 rows in two batches."""

    def __init__(self, segments: int) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
        )
        self.states = perturbed_states(self.model, CHECKPOINTS, scale=0.02)
        rows = Batch(torch.randn(256, 96), torch.randint(0, 10, (256,)), torch.arange(256))
        self.batches = split(rows, 128)
        self.places = torch.arange(CHECKPOINTS).view(segments, -1).tolist()
        self.segments = [self.fit(places) for places in self.places]
        query = mean_gradient_sums(self.model, ENTROPY, rows.inputs[:32], rows.labels[:32])
        self.queries = {"validation": query_filters(query, self.segments)}

    def load(self, checkpoint: int) -> None:
        self.model.load_state_dict(self.states[checkpoint])

    def fit(self, places: list[int]):
        return prepare_segment(self.model, self.load, ENTROPY, self.batches, places, source_spectrum(1.0))

    def attribute(self) -> None:
        score_rows(self.model, self.load, ENTROPY, self.batches, self.segments, 256, self.queries)

    def bare_passes(self) -> None:
        for checkpoint in range(CHECKPOINTS):
            self.load(checkpoint)
            for batch in self.batches:
                ENTROPY.losses(self.model(batch.inputs), batch.labels).sum().backward()


def operations(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_one_forward_and_one_backward_per_checkpoint_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(1)
    forwards, backwards = [], []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (backwards.append(1), grad(*a, **k))[1])
    handle = audit.model.register_forward_hook(lambda *_: forwards.append(1))
    audit.attribute()
    assert len(forwards) == len(backwards) == CHECKPOINTS * 2
    audit.fit(audit.places[0])
    # What the first pass over these few rows gave is kept for the second.
    assert len(forwards) == len(backwards) == 2 * CHECKPOINTS * 2
    monkeypatch.setattr(fit, "KEPT_BYTES", 0)
    audit.fit(audit.places[0])
    handle.remove()
    assert len(forwards) == len(backwards) == 4 * CHECKPOINTS * 2


@pytest.mark.parametrize(("segments", "bound"), [(1, 1.6), (3, 5.0)])
def test_scores_take_few_times_the_operations_of_bare_passes(segments: int, bound: float) -> None:
    audit = Audit(segments)
    bare = operations(audit.bare_passes)
    audit.attribute()  # factorises the transports, once per worker
    assert bare < operations(audit.attribute) < bound * bare


def test_fitting_factors_takes_few_times_the_operations_of_bare_passes() -> None:
    audit = Audit(1)
    bare = operations(audit.bare_passes)
    assert bare < operations(lambda: audit.fit(audit.places[0])) < 2.6 * bare
