from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from pipeline.attribution import (
    Batch,
    SharedInputs,
    add_tensors,
    covariance_sums,
    cross_entropy,
    eigenbases,
    prepare_segment,
    score_rows,
    source_spectrum,
    spectrum_sums,
)

from .models import model_and_rows, perturbed_states
from .oracles import influence, loss_matrices

ENTROPY = cross_entropy()


def test_checkpoints_share_what_depends_on_the_data_alone() -> None:
    for kind in ("mlp", "convnet", "tokens", "twice"):
        model, batch = model_and_rows(kind)
        states, shared, squares_shared = perturbed_states(model, 3), SharedInputs(), SharedInputs()
        bases = None
        for checkpoint, state in enumerate(states):
            model.load_state_dict(state)
            given = (model, ENTROPY, batch.inputs, batch.row_ids)
            draw = {"seed": 0, "checkpoint": checkpoint}
            alone = covariance_sums(*given, **draw)
            together = covariance_sums(*given, **draw, shared=shared)
            bases = bases or eigenbases(alone)
            expected = spectrum_sums(*given, bases, **draw)
            found = spectrum_sums(*given, bases, **draw, shared=squares_shared)
            for name in alone.gradient:
                torch.testing.assert_close(together.input[name], alone.input[name])
                torch.testing.assert_close(together.gradient[name], alone.gradient[name])
                torch.testing.assert_close(found[name], expected[name])
        # A layer that is used twice sees its own output as well.
        assert (shared.nbytes > 0) == (kind != "twice")


class NormFirst(nn.Module):
    """The first Linear layer's inputs change between checkpoints though no covered layer comes before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.head = nn.LayerNorm(4), nn.Linear(4, 5), nn.Linear(5, 3)

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
    whole = covariance_sums(model, ENTROPY, batch.inputs, batch.row_ids, seed=0, checkpoint=0)
    part = covariance_sums(model, ENTROPY, batch.inputs, batch.row_ids, seed=0, checkpoint=0, sample=0.25)
    assert part.examples == whole.examples
    for name, value in whole.input.items():
        assert 0 < (part.input[name] - value).abs().max() < 0.1 * value.abs().max()
    # The bias's entry counts rows; which rows are taken doesn't depend on the batch.
    halves = [
        covariance_sums(
            model,
            ENTROPY,
            half.inputs,
            half.row_ids,
            seed=0,
            checkpoint=0,
            sample=0.25,
        )
        for half in (
            replace(batch, inputs=batch.inputs[rows], row_ids=batch.row_ids[rows])
            for rows in (slice(0, 1500), slice(1500, 4000))
        )
    ]
    torch.testing.assert_close(halves[0].input["0"] + halves[1].input["0"], part.input["0"])
