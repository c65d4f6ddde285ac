"""Scores of single tokens, queries that are single tokens, and rows whose prompt has no loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attribution.models import LanguageModel
from attribution.oracles import gradient_matrix
from pipeline.attribution import (
    AttributionError,
    Batch,
    Objective,
    Scores,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    check_objective,
    covered_layers,
    cross_entropy,
    load_weights,
    mean_gradient_sums,
    prepare_segment,
    query_filters,
    restore_weights,
    segment_preconditioners,
    source_spectrum,
    squared_error,
    token_queries,
)
from pipeline.attribution.scores.similarity import (
    PROJECTION,
    find_similarity,
    passes,
    random_projections,
)
from pipeline.attribution.scores.tokens import token_harm

SUM = cross_entropy()
VOCABULARY, ROWS, TOKENS = 11, 9, 4


class Recorded:
    """A short training of a tied language model, recorded. The first tokens of some rows are a prompt."""

    def __init__(self, directory: Path, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW) -> None:
        torch.manual_seed(0)
        self.model = LanguageModel(VOCABULARY).double()
        text = torch.randint(VOCABULARY, (ROWS, TOKENS + 1))
        self.inputs, self.labels = text[:, :-1], text[:, 1:].clone()
        self.labels[::2, :2] = -100
        made = optimizer(self.model.parameters(), lr=0.01)
        recorder = TrajectoryRecorder(self.model, made, directory, steps=6, train_rows=ROWS, checkpoints=2)
        for _ in range(6):
            made.zero_grad()
            SUM.losses(self.model(self.inputs), self.labels).mean().backward()
            made.step()
            recorder.step()
        self.trajectory = Trajectory.load(directory)

    def scores(self, train: Sequence | None = None, query: Sequence | None = None, **options) -> Scores:
        train = [(self.inputs, self.labels)] if train is None else train
        query = [(self.inputs[:3], self.labels[:3])] if query is None else query
        return attribute(self.model, self.trajectory, train, query, **options)


def token_matrices(
    model: LanguageModel, objective: Objective, inputs: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Layer -> the gradient of each token's loss, [rows, tokens, out, in], by a backward pass for each."""
    modules = dict(model.named_modules())
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in covered_layers(model)}
    for row in range(len(inputs)):
        for token in range(labels.shape[1]):
            model.zero_grad()
            one = torch.full_like(labels[row : row + 1], -100)
            one[0, token] = labels[row, token]
            objective.losses(model.eval()(inputs[row : row + 1]), one).sum().backward()
            for name, matrices in found.items():
                matrices.append(gradient_matrix(modules, name))
    return {name: torch.stack(each).unflatten(0, labels.shape) for name, each in found.items()}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_harm_of_tokens_is_that_of_the_gradients_of_single_tokens(tmp_path: Path, optimizer: type) -> None:
    recorded = Recorded(tmp_path, optimizer)
    model, trajectory = recorded.model, recorded.trajectory
    batch = Batch(recorded.inputs, recorded.labels, torch.arange(ROWS))

    def load(place: int) -> None:
        restore_weights(model, load_weights(trajectory.checkpoints[place].path))

    (cut,) = trajectory.segments(1)
    segment = prepare_segment(
        model,
        load,
        SUM,
        [batch],
        cut.checkpoints,
        source_spectrum(cut.lr_sum, cut.weight_decay),
        preconditioners=segment_preconditioners(model, trajectory, cut),
    )
    query = mean_gradient_sums(model, SUM, recorded.inputs[:3], recorded.labels[:3])
    (filters,) = query_filters(query, [segment])
    found = token_harm(model, load, SUM, [batch], [segment], ROWS, [filters], trained_in=[0])
    expected = torch.zeros(ROWS, TOKENS).double()
    for checkpoint in cut.checkpoints:
        load(checkpoint)
        gradients = token_matrices(model, SUM, recorded.inputs, recorded.labels)
        for name, matrices in gradients.items():
            expected -= (filters[name] * matrices).sum((2, 3)) / (ROWS * len(cut.checkpoints))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


OPTIONS: list[dict] = [
    {"calibrate": True},
    {"method": "source_refined"},
    {"method": "source", "segments": 2},
    {"method": "influence"},
    {"method": "tracin"},
    {"method": "fast_source"},
    {"loss": cross_entropy(reduction="mean", label_smoothing=0.1)},
    {"loss": cross_entropy(reduction="row_mean", class_weights=torch.linspace(0.5, 2, VOCABULARY))},
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", OPTIONS)
def test_a_rows_tokens_sum_to_its_harm(tmp_path: Path, options: dict) -> None:
    scores = Recorded(tmp_path).scores(per_token=True, **options)
    assert scores.harm is not None
    assert scores.token_harm is not None
    torch.testing.assert_close(scores.token_harm.sum(1), scores.harm, rtol=1e-9, atol=1e-13)


def test_tokens_of_a_prompt_have_no_harm_and_a_prompt_no_effect(tmp_path: Path) -> None:
    """A completion-only row scores as the sum of its completion's tokens alone, whatever labels the prompt had."""
    recorded = Recorded(tmp_path)
    plain = recorded.scores(per_token=True)
    assert plain.token_harm is not None
    prompt = recorded.labels == -100
    assert not plain.token_harm[prompt].any()
    assert plain.token_harm[~prompt].all()


def test_a_row_with_a_masked_prompt_scores_by_its_completion_alone(tmp_path: Path) -> None:
    """The oracle takes torch's loss of the logits after the prompt; it knows no ignored labels."""
    recorded = Recorded(tmp_path)
    labels = recorded.labels.clone()
    labels[:, :2] = -100
    train = query = [(recorded.inputs, labels)]
    scores = recorded.scores(train, query, method="graddot", query_at="final")
    restore_weights(recorded.model, load_weights(recorded.trajectory.checkpoints[-1].path))
    gradients = []
    for row in range(ROWS):
        recorded.model.zero_grad()
        logits = recorded.model.eval()(recorded.inputs[row : row + 1])[0, 2:]
        functional.cross_entropy(logits, recorded.labels[row, 2:], reduction="sum").backward()
        gradients.append(torch.cat([p.grad.flatten() for p in recorded.model.parameters()]))
    rows = torch.stack(gradients)
    torch.testing.assert_close(scores.harm, -(rows @ rows.mean(0)) / ROWS, rtol=1e-9, atol=1e-14)


def test_narrower_batches_are_padded_with_zeros(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    train = [
        (recorded.inputs[:5], recorded.labels[:5]),
        (recorded.inputs[5:, :3], recorded.labels[5:, :3]),
    ]
    scores = recorded.scores(train, per_token=True)
    assert scores.token_harm is not None
    assert scores.harm is not None
    assert scores.token_harm.shape == (ROWS, TOKENS)
    assert not scores.token_harm[5:, 3].any()
    torch.testing.assert_close(scores.token_harm.sum(1), scores.harm, rtol=1e-9, atol=1e-13)


def test_queries_of_single_tokens_add_up_to_the_query_of_the_row(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    inputs, labels = recorded.inputs[:3], recorded.labels[:3]
    rows = recorded.scores(query=[(inputs, labels)], reduce_queries=False, query_tolerance=0.0)
    alone, own, places = token_queries(inputs, labels)
    assert places.tolist() == [[r, t] for r in range(3) for t in range(TOKENS) if labels[r, t] != -100]
    each = recorded.scores(query=[(alone, own)], reduce_queries=False, query_tolerance=0.0)
    assert rows.influence is not None
    assert each.influence is not None
    summed = torch.zeros(3, ROWS).double().index_add_(0, places[:, 0], each.influence)
    torch.testing.assert_close(summed, rows.influence, rtol=1e-9, atol=1e-13)


def test_a_query_of_one_token_is_the_gradient_of_its_loss(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    inputs, labels, places = token_queries(recorded.inputs[:3], recorded.labels[:3])
    expected = token_matrices(recorded.model, SUM, recorded.inputs[:3], recorded.labels[:3])
    for query, (row, token) in enumerate(places.tolist()):
        found = mean_gradient_sums(recorded.model, SUM, inputs[query][None], labels[query][None])
        for name, matrix in found.items():
            torch.testing.assert_close(matrix, expected[name][row, token], rtol=1e-9, atol=1e-14)


def test_token_queries_need_tokens_with_a_loss() -> None:
    with pytest.raises(AttributionError, match=r"shape \(3,\)"):
        token_queries(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(AttributionError, match="All labels are -100"):
        token_queries(torch.zeros(3, 2), torch.full((3, 2), -100))


def test_tokens_are_refused_where_they_mean_nothing(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    for options, said in (
        ({"method": "trak"}, "per_token has no effect with method='trak'"),
        ({"reduce_queries": False}, "per_token has no effect without the mean query loss"),
        ({"loss": replace(SUM, token_losses=None)}, "isn't a sum over tokens"),
    ):
        with pytest.raises(AttributionError, match=said):
            recorded.scores(per_token=True, **options)
    assert squared_error().token_losses is None


def test_token_losses_of_ones_own_have_to_sum_to_the_losses() -> None:
    wrong = replace(SUM, token_losses=lambda outputs, labels: SUM.losses(outputs, labels)[:, None] / 2)
    with pytest.raises(AttributionError, match="don't sum to its losses"):
        check_objective(wrong, torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("size", [4, 40], ids=["products", "columns"])
def test_trak_takes_the_curvature_of_all_outputs(tmp_path: Path, size: int) -> None:
    """P G Pᵀ of 44 outputs with the dense Jacobian; with few numbers in the projection no column is made."""
    recorded = Recorded(tmp_path)
    model, inputs, labels = recorded.model.eval(), recorded.inputs[:2], recorded.labels[:2]
    projections = random_projections(covered_layers(model), size, 0, model.head.weight)
    modules, rows = dict(model.named_modules()), []
    expected = torch.zeros(size, size).double()
    for row in range(2):
        outputs = model(inputs[row : row + 1])
        for output in outputs.flatten():
            model.zero_grad()
            output.backward(retain_graph=True)
            own = sum(
                (each.dense(slice(None)) * gradient_matrix(modules, name)).sum((1, 2))
                for name, each in projections.items()
            )
            rows.append(own)
        jacobian = torch.stack(rows[-44:]).unflatten(0, (TOKENS, VOCABULARY))
        p = outputs.detach()[0].softmax(-1)
        for token in range(TOKENS):
            if labels[row, token] != -100:
                hessian = torch.diag(p[token]) - torch.outer(p[token], p[token])
                expected += jacobian[token].T @ hessian @ jacobian[token]
    objective, made = SUM, []
    columns = SUM.exact_output_gradients

    class Counted(Sequence):
        def __init__(self, outputs: Tensor, given: Tensor | None) -> None:
            self.found = columns(outputs, given)

        def __len__(self) -> int:
            return len(self.found)

        def __getitem__(self, place: int) -> Tensor:
            if place < len(self.found):
                made.append(place)
            return self.found[place]

    objective = replace(SUM, exact_output_gradients=lambda outputs, given=None: Counted(outputs, given))
    similarity = find_similarity("projected_gradients")
    assert similarity.metric is not None
    batch = Batch(inputs, labels, torch.arange(2))
    (found,) = [similarity.metric(visit) for visit in passes(model, similarity, [(batch, objective)], size)]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert len(made) == (0 if size == 4 else 44)
    assert size < PROJECTION
