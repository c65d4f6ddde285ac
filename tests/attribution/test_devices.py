"""Attribution on a device that isn't the CPU: rows go there, and the host doesn't wait for it at every layer.

torch's device ``meta`` stands for a GPU. Its tensors have no values, so every question about a value is an error.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import Trajectory, TrajectoryRecorder, attribute, cross_entropy, query_filters
from pipeline.attribution.gradients import products
from pipeline.attribution.gradients.outer_products import OuterProducts, seen_only
from pipeline.attribution.model import capture as capturing
from pipeline.attribution.model.capture import capture
from pipeline.attribution.rows.repeated_batches import RepeatedBatches
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.scores.queries import query_influences
from pipeline.attribution.scores.rows import score_rows
from pipeline.attribution.trajectory import points
from pipeline.attribution.trajectory.points import Points

from .models import model_and_rows
from .test_scores import TRAIN_ROWS, Prepared

META = torch.device("meta")
ENTROPY = cross_entropy()
KINDS = ["mlp", "convnet", "tokens", "transformer", "tied"]


def on_meta(model: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy of a model on ``META``, whose first batch has been looked at on the CPU."""
    with capture(model) as captured:
        captured.forward(inputs)
    moved = copy.deepcopy(model).to(META)
    capturing._KNOWN[moved] = capturing._KNOWN[model]
    return moved


def test_batches_are_compared_where_they_are_and_then_moved() -> None:
    pairs = [({"a": torch.ones(2, 3), "b": torch.zeros(2)}, torch.tensor([0, 1]))]
    moved = RepeatedBatches(iter_again(pairs), "train", device=META)
    for _ in range(2):
        ((inputs, labels),) = moved
        assert {value.device for value in (*inputs.values(), labels)} == {META}  # type: ignore[union-attr]


class iter_again:
    """Not a list, so that the batches are compared."""

    def __init__(self, pairs: list) -> None:
        self.pairs = pairs

    def __iter__(self):
        return iter(self.pairs)


def test_attribute_gives_the_model_batches_on_its_device(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=1, train_rows=4, checkpoints=1)
    rows = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]
    nn.functional.cross_entropy(model(rows[0][0]), rows[0][1]).backward()
    optimizer.step()
    recorder.step()
    seen: list[torch.device] = []
    model[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].device))
    model.to(META)
    with pytest.raises((RuntimeError, NotImplementedError)):  # the first question about a value
        attribute(model, Trajectory.load(tmp_path), rows, rows)
    assert set(seen) == {META}


@pytest.mark.parametrize("kind", KINDS)
def test_sums_for_factors_and_products_with_filters_ask_for_no_value(kind: str) -> None:
    model, batch = model_and_rows(kind)
    moved = on_meta(model, batch.inputs)
    layers = 0
    with capture(moved) as captured:
        losses = ENTROPY.losses(captured.forward(batch.inputs.to(META)), batch.labels.to(META))
        for _, gradients in captured.gradients(losses, torch.ones_like(losses)):
            inputs, outputs = gradients.input_covariance(None), gradients.gradient_covariance()
            total = gradients.total()
            assert (total.shape[1], total.shape[0]) == (len(inputs), len(outputs))
            assert gradients.products(total.to(losses)).shape == losses.shape
            gradients.compact()
            layers += 1
    assert layers > 1


def test_rows_that_the_loss_does_not_see_add_nothing_whether_left_out_or_set_to_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    inputs, outputs = torch.randn(4, 5, 3).double(), torch.randn(4, 5, 2).double()
    outputs[0, 1:] = outputs[2, 3] = 0
    expected = torch.einsum("bpi,bpj->ij", *[torch.where(outputs.ne(0).any(2)[..., None], inputs, 0.0)] * 2)
    seen = outputs.ne(0).any(2)
    assert len(seen_only(inputs, seen)) == int(seen.sum())
    torch.testing.assert_close(OuterProducts(inputs, outputs).input_covariance(None), expected)
    monkeypatch.setattr("pipeline.attribution.gradients.outer_products.answers_at_once", lambda _: False)
    assert len(seen_only(inputs, seen)) == seen.numel()
    torch.testing.assert_close(OuterProducts(inputs, outputs).input_covariance(None), expected)


class Waits:
    """Counts copies to the host, and comparisons of inputs between checkpoints, which read one answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copies = self.comparisons = 0
        monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: self.copied(tensor))
        for module in ("outer_products", "patch_gradients", "indexed_gradients"):
            monkeypatch.setattr(f"{products.__package__}.{module}.same_values", self.compared)

    def copied(self, tensor: Tensor) -> Tensor:
        self.copies += tensor.device == META
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    def compared(self, first: Tensor, second: Tensor) -> bool:
        self.comparisons += 1
        return first.shape == second.shape


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_the_host_waits_once_a_batch_for_scores_whatever_the_layers_and_checkpoints(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = Prepared(kind, 1)
    filters = {"validation": query_filters(prepared.query, prepared.segments)}
    moved = on_meta(prepared.model, prepared.batch.inputs)
    waits, batches = Waits(monkeypatch), 3
    batch = replace(
        prepared.batch, inputs=prepared.batch.inputs.to(META), labels=prepared.batch.labels.to(META)
    )
    found = score_rows(
        moved,
        lambda _: None,
        ENTROPY,
        [batch] * batches,
        prepared.segments,
        TRAIN_ROWS,
        filters,
        self_influence=False,
    )
    assert found.losses.shape == (3, 9 * batches)
    assert waits.copies == 3 * batches  # losses, margins and harm, all at the same time
    assert waits.comparisons <= 2 * batches  # of the layer that gets the data, at the later checkpoints


def test_the_host_waits_once_for_influences_on_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = Prepared("mlp", 1)
    filters = [
        {name: torch.stack([each] * 2) for name, each in one.items()}
        for one in query_filters(prepared.query, prepared.segments)
    ]
    moved = on_meta(prepared.model, prepared.batch.inputs)
    batch = replace(
        prepared.batch, inputs=prepared.batch.inputs.to(META), labels=prepared.batch.labels.to(META)
    )
    waits = Waits(monkeypatch)
    monkeypatch.setattr(
        "pipeline.attribution.scores.queries.products", lambda gradients, each: gradients.products(each)
    )
    found = query_influences(
        moved, lambda _: None, ENTROPY, [batch] * 3, prepared.segments, TRAIN_ROWS, filters
    )
    assert found.shape == (2, 27)
    assert waits.copies == 1


def test_checkpoints_are_read_once_while_they_fit_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=2, train_rows=4, checkpoints=2)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        recorder.step()
    trajectory, read = Trajectory.load(tmp_path), []
    load = Trajectory.load_weights
    monkeypatch.setattr(
        Trajectory, "load_weights", lambda self, place: (read.append(place), load(self, place))[1]
    )
    held, nbytes = Points(model, trajectory), 8 * 4
    for point in (0, 1, 0, 1):
        held.load(point)
        assert torch.equal(model[0].weight, load(trajectory, point)["0.weight"])
    held.add_mean((0, 1), StageRows([], ENTROPY))
    assert read == [0, 1]
    read.clear()
    monkeypatch.setattr(points, "HELD_BYTES", nbytes)
    tight = Points(model, trajectory)
    for point in (0, 1, 0, 1):
        tight.load(point)
        assert torch.equal(model[0].weight, load(trajectory, point)["0.weight"])
    assert read == [0, 1, 1]
