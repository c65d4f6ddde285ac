from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.attribution import (
    Batch,
    add_tensors,
    covariance_sums,
    cross_entropy,
    eigenbases,
    eigenvalue_sums,
    prepare_segment,
    score_rows,
    source_spectrum,
)
from pipeline.attribution.curvature import passes
from pipeline.attribution.curvature.passes import FactorTask, KeptGradients, fit_covariances, fit_eigenvalues

from .models import model_and_rows, perturbed_states
from .oracles import influence, loss_matrices, split

ENTROPY = cross_entropy()


@pytest.mark.parametrize("fisher", ["mc", "exact"])
@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens", "twice"])
@pytest.mark.parametrize("group_bytes", [1, 1 << 20], ids=["batch by batch", "together"])
def test_checkpoints_share_what_depends_on_the_data_alone(
    kind: str, fisher: str, group_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of a segment are those of its batches and checkpoints one by one."""
    monkeypatch.setattr(passes, "GROUP_BYTES", group_bytes)
    model, batch = model_and_rows(kind)
    batch = replace(batch, weights=torch.linspace(0.5, 1.5, len(batch.row_ids)).double())
    states, rows = perturbed_states(model, 3), split(batch, 4)

    def load(checkpoint: int) -> None:
        model.load_state_dict(states[checkpoint])

    def alone(single: Callable, *given) -> list:
        found = []
        for checkpoint in range(3):
            load(checkpoint)
            for part in rows:
                draw = {"seed": 3, "checkpoint": checkpoint, "fisher": fisher, "weights": part.weights}
                found.append(single(model, ENTROPY, part.inputs, part.row_ids, *given, **draw))
        return found

    task = FactorTask(model, load, ENTROPY, (0, 1, 2), seed=3, fisher=fisher)
    kept = KeptGradients(3000)  # some of the visits
    sums, expected = fit_covariances(task, rows, kept=kept), alone(covariance_sums)
    assert sums.examples == 27 == sum(part.examples for part in expected)
    bases = eigenbases(sums)
    squares, expected_squares = fit_eigenvalues(task, rows, bases, kept=kept), alone(eigenvalue_sums, bases)
    for name in sums.gradient:
        torch.testing.assert_close(sums.input[name], sum(part.input[name] for part in expected))
        torch.testing.assert_close(sums.gradient[name], sum(part.gradient[name] for part in expected))
        torch.testing.assert_close(squares[name], sum(part[name] for part in expected_squares))


class NormFirst(nn.Module):
    """The first Linear layer's inputs change between checkpoints though no covered layer comes before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.head = nn.LayerNorm(4), nn.Linear(4, 5), nn.Linear(5, 3)
        self.norm.requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.first(self.norm(inputs))))


def test_inputs_that_change_between_checkpoints_are_not_shared() -> None:
    torch.manual_seed(0)
    model = NormFirst().double()
    batch = Batch(torch.randn(6, 4).double(), torch.randint(0, 3, (6,)), torch.arange(6))
    states, settings = perturbed_states(model, 2, scale=0.5), [(2.0, 0.01)]

    def load(checkpoint: int) -> None:
        model.load_state_dict(states[checkpoint])

    segment = prepare_segment(model, load, ENTROPY, [batch], (0, 1), source_spectrum(*settings[0]))
    sums: dict = {}
    for checkpoint in range(2):
        load(checkpoint)
        alone = covariance_sums(model, ENTROPY, batch.inputs, batch.row_ids, seed=0, checkpoint=checkpoint)
        sums = add_tensors(sums, alone.input)
    vectors = segment.bases["first"].input
    diagonal = vectors.T @ sums["first"] @ vectors
    torch.testing.assert_close(diagonal, torch.diag(diagonal.diagonal()), atol=1e-12, rtol=0)

    scores = score_rows(model, load, ENTROPY, [batch], [segment], 6)
    gradients = []
    for checkpoint in range(2):
        load(checkpoint)
        gradients.append(loss_matrices(model, ENTROPY, batch.inputs, batch.labels))
    expected = []
    for row in range(6):
        mine = [{name: value[row] for name, value in each.items()} for each in gradients]
        expected.append(influence(mine[-1], mine, [segment], settings, 6))
    torch.testing.assert_close(scores.self_influence, torch.tensor(expected).double())


def test_sampled_covariances_estimate_those_of_all_rows() -> None:
    model, batch = model_and_rows("mlp", rows=4000)
    task = FactorTask(model, lambda _: None, ENTROPY, (0, 1))
    whole, part = fit_covariances(task, [batch]), fit_covariances(task, [batch], sample=0.25)
    assert part.examples == whole.examples == 8000
    for name, value in whole.input.items():
        assert 0 < (part.input[name] - value).abs().max() < 0.1 * value.abs().max()
    # Which rows are taken doesn't depend on the batch.
    split_up = fit_covariances(task, split(batch, 1500), sample=0.25)
    for name, value in part.gradient.items():
        torch.testing.assert_close(split_up.gradient[name], value)
        torch.testing.assert_close(split_up.input[name], part.input[name])
