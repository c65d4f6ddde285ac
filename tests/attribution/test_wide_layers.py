"""Layers with more outputs than a limit keep the output side of their curvature as a diagonal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attribution.models import LanguageModel, model_and_rows, perturbed_states
from attribution.oracles import gradient_matrix, influence, loss_matrices, split
from pipeline.attribution import (
    AttributionError,
    Batch,
    PreparedSegment,
    Scores,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    capture,
    coverage,
    covered_layers,
    cross_entropy,
    mean_gradient_sums,
    prepare_segment,
    query_filters,
    score_rows,
    source_spectrum,
)
from pipeline.attribution.objectives.random_labels import row_uniforms

ENTROPY = cross_entropy()
SETTINGS = {1: [(2.0, 0.01)], 2: [(1.0, 0.0), (2.0, 0.05)]}
KINDS = ["mlp", "convnet", "tokens", "twice", "grouped", "tied", "transformer"]


@dataclass
class Fitted:
    """A model with made-up checkpoints, its segments, and a query."""

    model: nn.Module
    batch: Batch
    states: list[dict[str, Tensor]]
    settings: list[tuple[float, float]]
    widest: int

    def __post_init__(self) -> None:
        count = len(self.settings)
        self.segments = [
            prepare_segment(
                self.model,
                self.load,
                ENTROPY,
                [self.batch],
                (2 * place, 2 * place + 1),
                source_spectrum(*setting),
                widest_outputs=self.widest,
            )
            for place, setting in enumerate(self.settings)
        ]
        self.load(2 * count - 1)
        self.query = mean_gradient_sums(self.model, ENTROPY, self.batch.inputs[:2], self.batch.labels[:2])

    def load(self, checkpoint: int) -> None:
        self.model.load_state_dict(self.states[checkpoint])

    def matrices(self) -> list[dict[str, Tensor]]:
        """Per checkpoint, layer -> every row's gradient, a row at a time by autograd."""
        found = []
        for place in range(2 * len(self.settings)):
            self.load(place)
            found.append(loss_matrices(self.model, ENTROPY, self.batch.inputs, self.batch.labels))
        return found

    def scored(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """(harm, self-influence) as they are computed for many rows."""
        filters = {"query": query_filters(self.query, self.segments)}
        found = score_rows(
            self.model,
            self.load,
            ENTROPY,
            split(self.batch, 2),
            self.segments,
            50,
            filters,
            self_influence_tolerance=tolerance,
        )
        assert found.self_influence is not None
        return found.harm["query"], found.self_influence

    def expected(self) -> tuple[Tensor, Tensor]:
        """The same by the formula, with dense matrices."""
        gradients, harm, own = self.matrices(), [], []
        for row in range(len(self.batch.row_ids)):
            mine = [{name: value[row] for name, value in each.items()} for each in gradients]
            harm.append(-influence(self.query, mine, self.segments, self.settings, 50))
            own.append(influence(mine[-1], mine, self.segments, self.settings, 50))
        return torch.tensor(harm).double(), torch.tensor(own).double()


def language_model(vocabulary: int, rows: int, tokens: int, tied: bool) -> tuple[LanguageModel, Batch]:
    torch.manual_seed(0)
    model = LanguageModel(vocabulary, tied=tied).double()
    text = torch.randint(vocabulary, (rows, tokens + 1))
    labels = text[:, 1:].clone()
    labels[::2, : tokens // 2] = -100
    return model, Batch(text[:, :-1], labels, torch.arange(rows))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_dense_matrices_with_the_same_diagonal(kind: str, count: int) -> None:
    model, batch = model_and_rows(kind, 5)
    fitted = Fitted(model, batch, perturbed_states(model, 2 * count), SETTINGS[count], widest=1)
    assert all(basis.gradient.dim() == 1 for basis in fitted.segments[0].bases.values())
    for found, expected in zip(fitted.scored(0.0), fitted.expected(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "a head of its own"])
def test_scores_of_a_vocabulary_are_those_of_dense_matrices(tied: bool, count: int) -> None:
    model, batch = language_model(500, rows=4, tokens=3, tied=tied)
    fitted = Fitted(model, batch, perturbed_states(model, 2 * count), SETTINGS[count], widest=100)
    wide = [name for name, basis in fitted.segments[0].bases.items() if basis.gradient.dim() == 1]
    assert ("embedding" if tied else "head") in wide
    for found, expected in zip(fitted.scored(0.0), fitted.expected(), strict=True):
        torch.testing.assert_close(found, expected)
    for found, expected in zip(fitted.scored(1e-3), fitted.expected(), strict=True):
        assert (found - expected).abs().max() <= 5e-3 * expected.abs().max()


def test_eigenvalues_are_mean_squares_with_the_identity_on_the_output_side() -> None:
    """Λ by a backward pass for every row and its drawn labels, and the basis of the inputs by their covariance."""
    model, batch = language_model(500, rows=4, tokens=3, tied=True)
    fitted = Fitted(model, batch, perturbed_states(model, 2), SETTINGS[1], widest=100)
    seen: list[Tensor] = []
    handle = model.head.register_forward_hook(lambda _module, given, _out: seen.append(given[0].detach()))
    squares, covariance = torch.zeros(500, 4).double(), torch.zeros(4, 4).double()
    basis = fitted.segments[0].bases["embedding"]
    assert basis.input is not None
    for checkpoint in range(2):
        fitted.load(checkpoint)
        for row in range(4):
            one, labels = batch.inputs[row : row + 1], batch.labels[row : row + 1]
            uniforms = row_uniforms(torch.tensor([row]), seed=0, checkpoint=checkpoint)
            model.zero_grad()
            outputs = model.eval()(one)
            drawn = ENTROPY.sampled_output_gradients(outputs.detach(), uniforms, labels)
            outputs.backward(drawn)
            inputs = seen[-1][labels != -100]
            covariance += inputs.T @ inputs
            assert model.embedding.weight.grad is not None
            squares += (model.embedding.weight.grad @ basis.input).square()
    handle.remove()
    torch.testing.assert_close(fitted.segments[0].eigenvalues["embedding"], squares / 8)
    rotated = basis.input.T @ covariance @ basis.input
    torch.testing.assert_close(rotated, torch.diag(rotated.diagonal()), atol=1e-9, rtol=0)


class Recorded:
    """A short training of a language model on text with a pattern, recorded."""

    def __init__(self, directory: Path, optimizer: type[torch.optim.Optimizer], rate: float) -> None:
        torch.manual_seed(0)
        self.model = LanguageModel(500, width=8).double()
        start, step = torch.randint(500, (48, 1)), torch.randint(1, 4, (48, 1))
        text = (start + step * torch.arange(7)) % 500
        self.inputs, self.labels = text[:, :-1], text[:, 1:]
        made = optimizer(self.model.parameters(), lr=rate)
        recorder = TrajectoryRecorder(self.model, made, directory, steps=60, train_rows=48, checkpoints=2)
        for _ in range(60):
            rows = torch.randperm(48)[:12]
            made.zero_grad()
            ENTROPY.losses(self.model(self.inputs[rows]), self.labels[rows]).mean().backward()
            made.step()
            recorder.step()
        self.trajectory = Trajectory.load(directory)

    def scores(self, **options: object) -> Scores:
        train, query = [(self.inputs, self.labels)], [(self.inputs[:6], self.labels[:6])]
        return attribute(self.model, self.trajectory, train, query, **options)


@pytest.mark.parametrize(("optimizer", "rate"), [(torch.optim.SGD, 0.05), (torch.optim.AdamW, 0.02)])
def test_scores_with_the_diagonal_rank_rows_as_scores_without_it(
    tmp_path: Path, optimizer: type[torch.optim.Optimizer], rate: float
) -> None:
    recorded = Recorded(tmp_path, optimizer, rate)
    for method in ("source", "source_refined"):
        whole = recorded.scores(method=method, widest_outputs=500)
        diagonal = recorded.scores(method=method, widest_outputs=100)
        assert whole.harm is not None
        assert diagonal.harm is not None
        assert not torch.equal(whole.harm, diagonal.harm)
        assert spearman(whole.harm, diagonal.harm) > 0.9


@pytest.mark.parametrize(("optimizer", "rate"), [(torch.optim.SGD, 0.05), (torch.optim.AdamW, 0.02)])
def test_single_queries_have_the_mean_of_the_mean_query(
    tmp_path: Path, optimizer: type[torch.optim.Optimizer], rate: float
) -> None:
    recorded = Recorded(tmp_path, optimizer, rate)
    harm = recorded.scores(widest_outputs=100).harm
    assert harm is not None
    for tolerance, allowed in ((0.0, 1e-9), (1e-3, 1e-2)):
        each = recorded.scores(widest_outputs=100, reduce_queries=False, query_tolerance=tolerance)
        assert each.influence is not None
        assert (each.influence.mean(0) + harm).abs().max() <= allowed * harm.abs().max()


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize(("optimizer", "rate"), [(torch.optim.SGD, 0.05), (torch.optim.AdamW, 0.02)])
def test_self_influence_is_the_influence_of_a_row_on_itself(
    tmp_path: Path, optimizer: type[torch.optim.Optimizer], rate: float, segments: int
) -> None:
    """The two are computed in different ways: by the row's own factors, and by a filter of the row as a query."""
    recorded = Recorded(tmp_path, optimizer, rate)
    train = [(recorded.inputs, recorded.labels)]
    scores = attribute(
        recorded.model,
        recorded.trajectory,
        train,
        train,
        segments=segments,
        query_at="final",
        reduce_queries=False,
        query_tolerance=0.0,
        widest_outputs=100,
    )
    assert scores.influence is not None
    assert scores.self_influence is not None
    own = scores.influence.diagonal()
    assert (scores.self_influence - own).abs().max() <= 2e-3 * own.abs().max()


def spearman(first: Tensor, second: Tensor) -> float:
    ranks = [each.argsort().argsort().double() for each in (first, second)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def test_tokens_of_a_tied_weight_are_never_one_hot() -> None:
    model, batch = language_model(500, rows=2, tokens=16, tied=True)
    with capture(model) as captured:
        outputs = captured.forward(batch.inputs)
        found = dict(captured.gradients(outputs, torch.ones_like(outputs)))["embedding"]
    logits = 2 * 16 * 500 * 8
    assert found.nbytes < 1.1 * logits
    model.zero_grad()
    model.eval()(batch.inputs[:1]).sum().backward()
    expected = gradient_matrix(dict(model.named_modules()), "head")
    torch.testing.assert_close(found.matrices()[0], expected)


def test_coverage_names_the_layers_in_words() -> None:
    model = LanguageModel(500)
    assert coverage(model).approximated == []
    assert coverage(model, widest_outputs=499).approximated == [
        "embedding has 500 outputs, more than 499: the curvature between its outputs is kept as a diagonal"
    ]
    head = next(layer for layer in covered_layers(model, 499) if layer.name == "embedding")
    assert (head.diagonal, head.factor_numbers) == ((True, False), 500 + 16)


def test_the_limit_is_a_whole_number(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, torch.optim.SGD, 0.05)
    with pytest.raises(AttributionError, match="widest_outputs is 0"):
        recorded.scores(widest_outputs=0)


def test_covariances_without_a_limit_are_matrices() -> None:
    model, batch = language_model(30, rows=3, tokens=3, tied=True)
    segment: PreparedSegment = Fitted(
        model, batch, perturbed_states(model, 2), SETTINGS[1], widest=30
    ).segments[0]
    assert segment.bases["embedding"].gradient.shape == (30, 30)
