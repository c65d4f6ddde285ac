from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.attribution import (
    Batch,
    NonFiniteError,
    add_tensors,
    cross_entropy,
    influence_spectrum,
    mean_gradient_sums,
    prepare_segment,
    query_filters,
    query_gradients,
    score_batch,
    score_rows,
    source_spectrum,
)

from .models import model_and_rows, perturbed_states
from .oracles import influence, loss_matrices, split

ENTROPY = cross_entropy()
TRAIN_ROWS = 50
CUTS = {
    1: ([(0, 1, 2)], [(2.0, 0.01)]),
    3: ([(0, 1), (2,), (3, 4)], [(1.0, 0.0), (2.0, 0.05), (0.7, 0.01)]),
}


class Prepared:
    """A model with made-up checkpoints, its fitted segments and a query."""

    def __init__(self, kind: str, count: int, rows: int = 9, weights: bool = False) -> None:
        self.model, batch = model_and_rows(kind, rows)
        if weights:
            batch = replace(batch, weights=torch.rand(rows).double() * 2)
        self.batch = batch
        cuts, self.settings = CUTS[count]
        self.states = perturbed_states(self.model, 1 + max(c for cut in cuts for c in cut))
        self.loaded: list[int] = []
        self.segments = [
            prepare_segment(self.model, self.load, ENTROPY, [batch], cut, source_spectrum(*setting))
            for cut, setting in zip(cuts, self.settings, strict=True)
        ]
        self.load(len(self.states) - 1)
        sums = mean_gradient_sums(self.model, ENTROPY, batch.inputs[:4], batch.labels[:4])
        self.query = {name: value / 4 for name, value in sums.items()}
        self.queries = {"validation": query_filters(self.query, self.segments)}
        self.loaded.clear()

    def load(self, checkpoint: int) -> None:
        self.loaded.append(checkpoint)
        self.model.load_state_dict(self.states[checkpoint])

    def score(self, batches: list[Batch], **options):
        options = {"self_influence_tolerance": 0.0} | options
        return score_rows(
            self.model, self.load, ENTROPY, batches, self.segments, TRAIN_ROWS, self.queries, **options
        )

    def row_gradients(self):
        """Per checkpoint, layer -> [rows, out, in] of the weighted losses."""
        found = []
        for state in self.states:
            self.model.load_state_dict(state)
            batch = self.batch
            found.append(loss_matrices(self.model, ENTROPY, batch.inputs, batch.labels, batch.weights))
        return found


@pytest.mark.parametrize("weights", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens", "twice", "grouped", "tied", "transformer"])
def test_scores_equal_the_formula_with_dense_gradients(kind: str, count: int, weights: bool) -> None:
    prepared = Prepared(kind, count, rows=5, weights=weights)
    scores = prepared.score(split(prepared.batch, 2))
    gradients = prepared.row_gradients()
    own, harm = [], []
    for row in range(5):
        mine = [{name: value[row] for name, value in checkpoint.items()} for checkpoint in gradients]
        own.append(influence(mine[-1], mine, prepared.segments, prepared.settings, TRAIN_ROWS))
        harm.append(-influence(prepared.query, mine, prepared.segments, prepared.settings, TRAIN_ROWS))
    assert scores.self_influence is not None
    torch.testing.assert_close(scores.self_influence, torch.tensor(own).double())
    torch.testing.assert_close(scores.harm["validation"], torch.tensor(harm).double())


def test_losses_and_margins_are_those_of_every_checkpoint_without_weights() -> None:
    prepared = Prepared("convnet", 3, weights=True)
    scores = prepared.score(split(prepared.batch, 4))
    assert scores.margins is not None
    prepared.model.eval()
    for checkpoint, state in enumerate(prepared.states):
        prepared.model.load_state_dict(state)
        outputs = prepared.model(prepared.batch.inputs).detach()
        labels = prepared.batch.labels
        torch.testing.assert_close(scores.losses[checkpoint], ENTROPY.losses(outputs, labels))
        torch.testing.assert_close(scores.margins[checkpoint], ENTROPY.margins(outputs, labels))


def test_removing_a_row_that_opposes_the_query_is_predicted_to_help() -> None:
    """A row with the query's inputs and another label is harmful, a copy of the query helpful."""
    prepared = Prepared("mlp", 1)
    inputs, labels = prepared.batch.inputs[:1], prepared.batch.labels[:1]
    sums = mean_gradient_sums(prepared.model, ENTROPY, inputs, labels)
    prepared.queries = {"copy": query_filters(sums, prepared.segments)}
    pair = Batch(inputs.repeat(2, 1), torch.cat([labels, (labels + 1) % 3]), torch.arange(2))
    helpful, harmful = prepared.score([pair]).harm["copy"].tolist()
    assert helpful < 0 < harmful


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens", "grouped", "tied", "transformer"])
def test_scores_in_single_precision_do_not_depend_on_batches(kind: str, count: int) -> None:
    prepared = Prepared(kind, count, rows=130)
    prepared.model.float()
    prepared.states = [
        {n: v.float() if v.is_floating_point() else v for n, v in s.items()} for s in prepared.states
    ]
    inputs = prepared.batch.inputs
    batch = replace(prepared.batch, inputs=inputs.float() if inputs.is_floating_point() else inputs)
    whole = prepared.score([batch])
    for size in (7, 64):
        parts = prepared.score(split(batch, size))
        for found, expected in (
            (parts.self_influence, whole.self_influence),
            (parts.harm["validation"], whole.harm["validation"]),
        ):
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_curvature_and_scores_from_other_batches_agree_in_single_precision() -> None:
    """The whole chain, factors included, with sampled labels: batches of 7, 64 and all rows."""
    model, batch = model_and_rows("mlp", rows=130)
    model.float()
    batch = replace(batch, inputs=batch.inputs.float())
    states = perturbed_states(model, 2)

    def load(checkpoint: int) -> None:
        model.load_state_dict(states[checkpoint])

    def chain(size: int):
        batches = split(batch, size)
        segment = prepare_segment(model, load, ENTROPY, batches, (0, 1), source_spectrum(2.0, 1e-3))
        load(1)
        sums: dict = {}
        for part in batches:
            sums = add_tensors(sums, mean_gradient_sums(model, ENTROPY, part.inputs, part.labels))
        queries = {"q": query_filters(sums, [segment])}
        return score_rows(model, load, ENTROPY, batches, [segment], 130, queries)

    whole = chain(130)
    for size in (7, 64):
        parts = chain(size)
        assert (
            parts.self_influence - whole.self_influence
        ).abs().max() <= 1e-5 * whole.self_influence.abs().max()
        assert (parts.harm["q"] - whole.harm["q"]).abs().max() <= 1e-5 * whole.harm["q"].abs().max()


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_one_forward_pass_per_batch_and_checkpoint_and_one_load_per_group(kind: str) -> None:
    prepared = Prepared(kind, 3)
    calls = []
    handle = prepared.model.register_forward_hook(lambda *_: calls.append(1))
    batches = split(prepared.batch, 3)
    ample = prepared.score(batches)
    assert len(calls) == 3 * 5
    assert sorted(prepared.loaded) == [0, 1, 2, 3, 4]
    assert prepared.loaded[0] == 4
    prepared.loaded.clear()
    tight = prepared.score(batches, held_bytes=1)
    handle.remove()
    assert len(prepared.loaded) == 15
    torch.testing.assert_close(tight.self_influence, ample.self_influence)


def test_dense_gradients_in_slices_equal_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = Prepared("convnet", 3)
    whole = prepared.score([prepared.batch])
    monkeypatch.setattr("pipeline.attribution.gradients.outer_products.SLICE_BYTES", 1)
    sliced = prepared.score([prepared.batch])
    torch.testing.assert_close(sliced.self_influence, whole.self_influence)


@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens"])
def test_several_queries_give_a_score_each(kind: str) -> None:
    prepared = Prepared(kind, 3)
    apart = query_gradients(prepared.model, ENTROPY, prepared.batch.inputs[:4], prepared.batch.labels[:4])
    prepared.queries["apart"] = query_filters(apart, prepared.segments)
    harm = prepared.score(split(prepared.batch, 4), self_influence=False).harm
    assert harm["apart"].shape == (4, 9)
    torch.testing.assert_close(harm["apart"].mean(0), harm["validation"])


def test_self_influence_of_influence_functions_is_positive() -> None:
    prepared = Prepared("mlp", 1)
    last = len(prepared.states) - 1
    segment = prepare_segment(
        prepared.model, prepared.load, ENTROPY, [prepared.batch], (last,), influence_spectrum(0.1)
    )
    scores = score_batch(prepared.model, prepared.load, ENTROPY, prepared.batch, [segment], TRAIN_ROWS)
    assert scores.self_influence is not None
    assert (scores.self_influence > 0).all()
    assert scores.harm == {}
    assert scores.losses.shape == (1, 9)


def test_nan_names_the_row() -> None:
    prepared = Prepared("mlp", 1)
    prepared.batch.inputs[6, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="row 106"):
        prepared.score(split(prepared.batch, 4))


def test_weight_gradients_are_never_formed() -> None:
    prepared = Prepared("mlp", 1)
    prepared.score([prepared.batch])
    assert all(p.grad is None and p.requires_grad for p in prepared.model.parameters())
    assert isinstance(prepared.model, nn.Sequential)


def test_factored_transport_is_within_its_tolerance() -> None:
    """Wide layers, three segments: the low-rank transport against the exact one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 48), nn.Tanh(), nn.Linear(48, 3)).double()
    batch = Batch(torch.randn(30, 40).double(), torch.randint(0, 3, (30,)), torch.arange(30))
    states = perturbed_states(model, 3)

    def load(checkpoint: int) -> None:
        model.load_state_dict(states[checkpoint])

    segments = [prepare_segment(model, load, ENTROPY, [batch], (c,), source_spectrum(3.0)) for c in range(3)]

    def self_influence(tolerance: float) -> torch.Tensor:
        scores = score_rows(model, load, ENTROPY, [batch], segments, 30, self_influence_tolerance=tolerance)
        assert scores.self_influence is not None
        return scores.self_influence

    exact = self_influence(0.0)
    errors = [
        ((self_influence(t) - exact).abs().max() / exact.abs().max()).item() for t in (1e-1, 1e-2, 1e-3)
    ]
    assert 0 < errors[2] < errors[0]
    for error, tolerance in zip(errors, (1e-1, 1e-2, 1e-3), strict=True):
        assert error < tolerance
