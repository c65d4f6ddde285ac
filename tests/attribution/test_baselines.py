"""Baselines against gradients one row at a time, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution import (
    AttributionError,
    StageData,
    Trajectory,
    TrajectoryRecorder,
    attribute,
)
from pipeline.attribution.model.capture import capture
from pipeline.attribution.queries.compression import products
from pipeline.attribution.scores.similarity import random_projections

from .models import TinyTransformer, Tokens, convnet, grouped
from .test_attribute import classifier

ROWS = 60


def flat_gradients(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """``[rows, parameters]``, of every row's loss at the model's present weights."""
    model.eval()
    found = []
    for inputs, labels in batches:
        for row in range(len(labels)):
            model.zero_grad()
            loss = functional.cross_entropy(model(inputs[row : row + 1]), labels[row : row + 1])
            found.append(
                torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
            )
    model.train()
    return torch.stack(found)


def at_checkpoint(model: nn.Module, trajectory: Trajectory, place: int) -> nn.Module:
    model.load_state_dict(trajectory.load_weights(place))
    return model


def recorded(model: nn.Module, inputs: Tensor, directory: Path) -> tuple[nn.Module, Trajectory, list]:
    """Two checkpoints of a model of three classes."""
    torch.manual_seed(0)
    labels = torch.randint(3, (len(inputs),))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, directory, steps=4, train_rows=len(inputs), checkpoints=2)
    for _ in range(4):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        recorder.step()
    return model, Trajectory.load(directory), [(inputs[:4], labels[:4]), (inputs[4:], labels[4:])]


def test_tracin_sums_gradient_products_times_learning_rates_over_checkpoints(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    apart = attribute(
        model, trajectory, train, query, method="tracin", reduce_queries=False, query_tolerance=0.0
    )
    reduced = attribute(model, trajectory, train, query, method="tracin")
    influence, own = torch.zeros(40, ROWS).double(), torch.zeros(ROWS).double()
    for place, checkpoint in enumerate(trajectory.checkpoints):
        assert checkpoint.applied is not None
        at_checkpoint(model, trajectory, place)
        rows, queries = flat_gradients(model, train), flat_gradients(model, query)
        influence += checkpoint.applied[0] * queries @ rows.T / ROWS
        own += checkpoint.applied[0] * rows.square().sum(1) / ROWS
    torch.testing.assert_close(apart.influence, influence)
    torch.testing.assert_close(reduced.harm, -influence.mean(0))
    torch.testing.assert_close(reduced.self_influence, own)
    assert reduced.losses.shape == (6, ROWS)
    assert reduced.method == "tracin"


def test_graddot_is_the_product_of_gradients_at_the_last_checkpoint(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    found = attribute(model, trajectory, train, query, method="graddot", query_at="final")
    at_checkpoint(model, trajectory, 5)
    rows, queries = flat_gradients(model, train), flat_gradients(model, query)
    torch.testing.assert_close(found.harm, -(queries.mean(0) @ rows.T) / ROWS)
    torch.testing.assert_close(found.self_influence, rows.square().sum(1) / ROWS)


@pytest.mark.parametrize("kind", ["convnet", "tokens", "transformer", "grouped"])
def test_products_of_gradients_cover_every_kind_of_layer(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(1)
    models = {"convnet": convnet, "tokens": Tokens, "transformer": TinyTransformer, "grouped": grouped}
    shapes = {"convnet": (2, 5, 5), "grouped": (2, 5)}
    inputs = torch.randn(7, *shapes.get(kind, (4,))).double()
    if kind in ("tokens", "transformer"):
        inputs = torch.randint(1, 7, (7, 5))
    model, trajectory, train = recorded(models[kind]().double(), inputs, tmp_path)
    found = attribute(
        model,
        trajectory,
        train,
        train[:1],
        method="graddot",
        query_at="final",
        reduce_queries=False,
        query_tolerance=0.0,
    )
    at_checkpoint(model, trajectory, 1)
    rows = flat_gradients(model, train)
    torch.testing.assert_close(found.influence, rows[:4] @ rows.T / 7)
    torch.testing.assert_close(found.self_influence, rows.square().sum(1) / 7)


def test_tracin_counts_every_group_with_its_learning_rate_and_leaves_out_what_is_frozen(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, labels = torch.randn(12, 4).double(), torch.randint(3, (12,))
    groups = [
        {"params": [model[0].weight], "lr": 0.1},
        {"params": [model[0].bias], "lr": 0.02, "weight_decay": 0.1},
    ]
    model[2].requires_grad_(False)
    recorder = TrajectoryRecorder(
        model, optimizer := torch.optim.SGD(groups), tmp_path, steps=4, train_rows=12, checkpoints=2
    )
    for _ in range(4):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        recorder.step()
    trajectory = Trajectory.load(tmp_path)
    found = attribute(model, trajectory, [(inputs, labels)], [(inputs[:3], labels[:3])], method="tracin")
    expected, own = torch.zeros(12).double(), torch.zeros(12).double()
    rates = torch.cat([torch.full((20,), 0.2), torch.full((5,), 0.04)]).double()  # two steps each
    model.requires_grad_(True)
    for place in range(2):
        rows = flat_gradients(at_checkpoint(model, trajectory, place), [(inputs, labels)])[:, :25]
        expected -= rows[:3].mean(0) * rates @ rows.T / 12
        own += (rows.square() * rates).sum(1) / 12
    torch.testing.assert_close(found.harm, expected)
    torch.testing.assert_close(found.self_influence, own)


def test_tracin_of_two_stages_injects_a_row_where_it_was_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3)).double()
    inputs, labels = torch.randn(10, 4).double(), torch.randint(3, (10,))
    stages = [slice(0, 6), slice(4, 10)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=2, train_rows=6, checkpoints=1)
    for stage, rows in enumerate(stages):
        if stage:
            recorder.next_stage(optimizer, steps=2, train_rows=6, checkpoints=1)
        for _ in range(2):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
            recorder.step()
    trajectory = Trajectory.load(tmp_path)
    data = [StageData([(inputs[rows], labels[rows])], torch.arange(10)[rows]) for rows in stages]
    query = [(inputs[:2], labels[:2])]
    found = attribute(model, trajectory, data, query, method="tracin")
    expected = torch.zeros(10).double()
    for place, rows in enumerate(stages):
        each = flat_gradients(at_checkpoint(model, trajectory, place), [(inputs, labels)])
        expected[rows] -= 0.2 * each[:2].mean(0) @ each[rows].T / 6
    torch.testing.assert_close(found.harm, expected)


def margin_gradients(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(∇ log p/(1 − p) ``[rows, parameters]``, 1 − p), row by row."""
    model.eval()
    found, doubts = [], []
    for inputs, labels in batches:
        for row in range(len(labels)):
            p = model(inputs[row : row + 1]).softmax(1)[0, labels[row]]
            gradients = torch.autograd.grad((p / (1 - p)).log(), list(model.parameters()))
            found.append(torch.cat([g.flatten() for g in gradients]))
            doubts.append(1 - p.item())
    model.train()
    return torch.stack(found), torch.tensor(doubts).double()


def test_trak_with_many_numbers_is_its_formula_without_a_projection(tmp_path: Path) -> None:
    """Softmax regression with fewer parameters than numbers and rows: a full-rank projection changes nothing."""
    torch.manual_seed(0)
    model, trajectory, train = recorded(
        nn.Sequential(nn.Linear(3, 3)).double(), torch.randn(40, 3).double(), tmp_path
    )
    query = train[:1]
    found = attribute(
        model,
        trajectory,
        train,
        query,
        method="trak",
        query_at="final",
        projection=64,
        reduce_queries=False,
    )
    at_checkpoint(model, trajectory, 1)
    margins, doubts = margin_gradients(model, train)
    inverse = torch.linalg.pinv(margins.T @ margins, hermitian=True)
    losses = -doubts[:, None] * margins
    expected = losses[:4] @ inverse @ losses.T
    torch.testing.assert_close(found.influence, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.harm, -expected.mean(0), rtol=1e-6, atol=1e-9)
    own = doubts.square() * ((margins @ inverse) * margins).sum(1)
    torch.testing.assert_close(found.self_influence, own, rtol=1e-6, atol=1e-9)


def test_trak_without_margins_is_the_projected_gauss_newton_matrix(tmp_path: Path) -> None:
    """Linear regression: the removal's first-order effect, (XᵀX)⁻¹ in the middle."""
    torch.manual_seed(0)
    model, inputs = nn.Linear(3, 1).double(), torch.randn(30, 3).double()
    targets = inputs.sum(1) + torch.randn(30).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=6, train_rows=30)
    for _ in range(6):
        optimizer.zero_grad()
        (model(inputs)[:, 0] - targets).square().mean().backward()
        optimizer.step()
        recorder.step()
    query = [(inputs[:5], targets[:5])]
    found = attribute(
        model,
        Trajectory.load(tmp_path),
        [(inputs, targets)],
        query,
        loss="squared_error",
        method="trak",
        query_at="final",
        projection=40,
        reduce_queries=False,
    )
    design = torch.cat([inputs, torch.ones(30, 1).double()], 1)
    residuals = (model(inputs)[:, 0] - targets).detach()
    inverse = torch.linalg.inv(design.T @ design)
    expected = 2 * residuals[:5, None] * (design[:5] @ inverse @ design.T) * residuals
    torch.testing.assert_close(found.influence, expected, rtol=1e-6, atol=1e-9)


def test_a_projection_keeps_inner_products_on_average() -> None:
    """Over many seeds the projected products' mean is the exact one, within five standard errors."""
    torch.manual_seed(0)
    model = convnet().double()
    inputs, labels = torch.randn(3, 2, 5, 5).double(), torch.tensor([0, 1, 2])
    exact = flat_gradients(model, [(inputs, labels)])
    exact = exact @ exact.T
    found = []
    with capture(model) as captured:
        losses = functional.cross_entropy(captured.forward(inputs), labels, reduction="none")
        gradients = dict(captured.gradients(losses, torch.ones_like(losses)))
        for seed in range(50):
            projections = random_projections(captured.layers, 40, seed, inputs)
            features = sum(products(each, projections[name]) for name, each in gradients.items())
            found.append(features.T @ features)
    each = torch.stack(found)
    error = each.std(0) / 50**0.5
    assert ((each.mean(0) - exact).abs() < 5 * error).all()
    assert (error < 0.2 * exact.diagonal().max()).all()


def test_representation_is_the_cosine_of_the_last_layers_inputs(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    found = attribute(model, trajectory, train, query, method="representation", reduce_queries=False)
    model.load_state_dict(trajectory.load_tail())

    def features(batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.cat([model[:2](inputs) for inputs, _ in batches]).detach()

    expected = functional.cosine_similarity(features(query)[:, None], features(train)[None], dim=2)
    torch.testing.assert_close(found.influence, expected)
    torch.testing.assert_close(found.harm, -expected.mean(0))
    assert found.self_influence is None


def test_loss_is_the_rows_own_loss_for_every_query(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    found = attribute(
        model,
        trajectory,
        train,
        query,
        method="loss",
        query_at="final",
        reduce_queries=False,
    )
    at_checkpoint(model, trajectory, 5)
    expected = torch.cat([functional.cross_entropy(model(x), y, reduction="none") for x, y in train]).detach()
    torch.testing.assert_close(found.harm, expected)
    torch.testing.assert_close(found.losses, expected[None])
    assert found.influence is not None
    torch.testing.assert_close(found.influence, -expected.expand(40, ROWS))


@pytest.mark.parametrize("method", ["trak", "representation", "loss"])
def test_features_dont_depend_on_batches_and_the_model_is_put_back(tmp_path: Path, method: str) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs, labels = (torch.cat(part) for part in zip(*train, strict=True))
    found = attribute(model, trajectory, train, query, method=method)
    whole = attribute(model, trajectory, [(inputs, labels)], query, method=method)
    torch.testing.assert_close(found.harm, whole.harm)
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)
    assert model.training
    assert attribute(model, trajectory, train, method=method).harm is None


@pytest.mark.parametrize("method", ["trak", "representation"])
def test_wrong_options_of_features_are_named(tmp_path: Path, method: str) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    said = "projection is 0" if method == "trak" else "projection has no effect with method='representation'"
    with pytest.raises(AttributionError, match=said):
        attribute(model, trajectory, train, query, method=method, projection=0)
    with pytest.raises(AttributionError, match="no queries"):
        attribute(model, trajectory, train, [], method=method)
    with pytest.raises(AttributionError, match="class 3, but the model has 3"):
        attribute(model, trajectory, train, [(query[0][0], query[0][1] + 1)], method=method)
