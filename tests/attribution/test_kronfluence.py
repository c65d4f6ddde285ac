"""Influence functions by an independent implementation, kronfluence: the same weights and drawn output gradients."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import (
    add_tensors,
    cross_entropy,
    influence_spectrum,
    mean_gradient_sums,
    prepare_segment,
    query_filters,
    score_rows,
)
from pipeline.attribution.objectives.random_labels import row_uniforms

from .models import model_and_rows
from .oracles import split

analyzer = pytest.importorskip("kronfluence.analyzer")
arguments = pytest.importorskip("kronfluence.arguments")
task = pytest.importorskip("kronfluence.task")

ENTROPY = cross_entropy()


class Classification(task.Task):
    """Takes the output gradients that our curvature draws, so that both have the same factors."""

    def compute_train_loss(self, batch: list[Tensor], model: nn.Module, sample: bool = False) -> Tensor:
        inputs, labels, row_ids = batch
        outputs = model(inputs)
        if sample:
            uniforms = row_uniforms(row_ids, seed=0, checkpoint=0)
            drawn = ENTROPY.sampled_output_gradients(outputs.detach(), uniforms)
            return (outputs * drawn).sum()
        return nn.functional.cross_entropy(outputs, labels, reduction="sum")

    def compute_measurement(self, batch: list[Tensor], model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)


def theirs(model: nn.Module, train, query, directory: Path, damping: float | None) -> tuple[Tensor, Tensor]:
    """Self-influence [rows] and the scores of the summed query loss [rows]."""
    prepared = analyzer.prepare_model(copy.deepcopy(model), Classification())
    work = analyzer.Analyzer(
        "test",
        prepared,
        Classification(),
        cpu=True,
        disable_tqdm=True,
        output_dir=str(directory),
    )
    double = {"gradient_covariance_dtype": torch.float64, "activation_covariance_dtype": torch.float64}
    work.fit_all_factors(
        "ekfac",
        train,
        per_device_batch_size=16,
        factor_args=arguments.FactorArguments(
            strategy="ekfac", lambda_dtype=torch.float64, per_sample_gradient_dtype=torch.float64, **double
        ),
    )
    settings = {
        "damping_factor": damping,
        "score_dtype": torch.float64,
        "per_sample_gradient_dtype": torch.float64,
        "precondition_dtype": torch.float64,
    }
    common = {"factors_name": "ekfac", "per_device_train_batch_size": 16, "train_dataset": train}
    work.compute_self_scores("own", score_args=arguments.ScoreArguments(**settings), **common)
    work.compute_pairwise_scores(
        "pairs",
        query_dataset=query,
        per_device_query_batch_size=8,
        score_args=arguments.ScoreArguments(aggregate_query_gradients=True, **settings),
        **common,
    )
    own, pairs = work.load_self_scores("own"), work.load_pairwise_scores("pairs")
    return own["all_modules"], pairs["all_modules"].squeeze(0)


@pytest.mark.parametrize("damping", [None, 1e-3], ids=["relative damping", "given damping"])
def test_influence_scores_agree(tmp_path: Path, damping: float | None) -> None:
    model, batch = model_and_rows("mlp", rows=60)
    model = nn.Sequential(*[nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in model])
    query = split(batch, 20)[0]
    own, pairs = theirs(
        model,
        torch.utils.data.TensorDataset(batch.inputs, batch.labels, batch.row_ids),
        torch.utils.data.TensorDataset(query.inputs, query.labels, query.row_ids),
        tmp_path,
        damping,
    )

    def stay(_checkpoint: int) -> None:
        pass

    batches = split(batch, 16)
    segment = prepare_segment(model, stay, ENTROPY, batches, (0,), influence_spectrum(damping))
    sums: dict[str, Tensor] = {}
    for part in split(query, 8):
        sums = add_tensors(sums, mean_gradient_sums(model, ENTROPY, part.inputs, part.labels))
    scores = score_rows(model, stay, ENTROPY, batches, [segment], 1, {"sum": query_filters(sums, [segment])})
    assert scores.self_influence is not None
    # Both round the basis differently; agreement is relative to the largest score.
    assert (scores.self_influence - own).abs().max() < 1e-6 * own.abs().max()
    assert (-scores.harm["sum"] - pairs).abs().max() < 1e-6 * pairs.abs().max()
