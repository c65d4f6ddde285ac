"""Reduced precision changes scores a little, and nothing when it is over."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.attribution import cross_entropy, prepare_segment, query_filters, score_rows, source_spectrum
from pipeline.attribution.model.precision import matrix_products
from pipeline.attribution.queries.gradients import mean_gradient_sums
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.scores.rows import BatchScores

from .models import model_and_rows

ENTROPY = cross_entropy()


def relative(first: Tensor | None, second: Tensor | None) -> float:
    assert first is not None
    assert second is not None
    return float((first - second).abs().max() / second.abs().max())


@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens", "twice"])
def test_bfloat16_passes_move_scores_by_a_little(kind: str) -> None:
    model, batch = model_and_rows(kind, rows=20)
    model = model.float()
    inputs = batch.inputs.float() if batch.inputs.is_floating_point() else batch.inputs
    batch = Batch(inputs, batch.labels, batch.row_ids)
    segment = prepare_segment(model, lambda _: None, ENTROPY, [batch], (0,), source_spectrum(2.0))
    query = query_filters(mean_gradient_sums(model, ENTROPY, inputs[:5], batch.labels[:5]), [segment])

    def scores() -> BatchScores:
        return score_rows(model, lambda _: None, ENTROPY, [batch], [segment], 20, {"validation": query})

    before = scores()
    with matrix_products("bf16"):
        reduced = scores()
    after = scores()
    for one, exact in (
        (reduced.self_influence, before.self_influence),
        (reduced.harm["validation"], before.harm["validation"]),
        (reduced.losses, before.losses),
    ):
        assert 0 < relative(one, exact) < 0.05
    assert torch.equal(after.losses, before.losses)


def test_settings_are_put_back_after_an_error() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    def fail() -> None:
        with matrix_products("tf32"):
            assert torch.get_float32_matmul_precision() == "high"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
