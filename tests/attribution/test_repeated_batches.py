"""Batches that are iterated several times have to be the same each time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pipeline.attribution import AttributionError, Trajectory, TrajectoryRecorder, attribute
from pipeline.attribution.rows.repeated_batches import RepeatedBatches

from .test_attribute import classifier

ROWS = 12
INPUTS = torch.randn(ROWS, 2, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(ROWS) % 3
DATA = TensorDataset(INPUTS, LABELS)


class Made:
    """Batches that a function makes anew each time."""

    def __init__(self, make: Callable[[], list]) -> None:
        self.make = make

    def __iter__(self) -> Iterator:
        return iter(self.make())


def split(inputs: Tensor | dict[str, Tensor], labels: Tensor) -> list:
    if isinstance(inputs, Tensor):
        return list(zip(inputs.split(5), labels.split(5), strict=True))
    return [(inputs, labels)]


def shuffled() -> list:
    order = torch.randperm(ROWS)
    return split(INPUTS[order], LABELS[order])


class Growing:
    """One row more each time."""

    def __init__(self) -> None:
        self.rows = 5

    def __call__(self) -> list:
        self.rows += 1
        return split(INPUTS[: self.rows], LABELS[: self.rows])


@pytest.mark.parametrize(
    "sampled",
    [
        {"shuffle": True},
        {"sampler": SubsetRandomSampler(range(ROWS))},
        {"sampler": WeightedRandomSampler([1.0] * ROWS, ROWS)},
        {"batch_sampler": BatchSampler(RandomSampler(DATA), 5, False)},
    ],
    ids=["shuffle", "subset", "weighted", "batches"],
)
def test_a_loader_that_draws_rows_at_random_is_refused(sampled: dict) -> None:
    with pytest.raises(AttributionError, match="The data loader of train shuffles"):
        RepeatedBatches(DataLoader(DATA, **sampled), "train")


@pytest.mark.parametrize(
    "make",
    [
        shuffled,
        Growing(),
        lambda: split(INPUTS + 1e-3 * torch.randn(ROWS, 2, 3), LABELS),
        lambda: split(torch.where(torch.rand(ROWS, 1, 1) < 0.5, INPUTS, INPUTS.flip(2)), LABELS),
        lambda: split({"a": INPUTS, "b": torch.randint(9, (ROWS, 4))}, LABELS),
        lambda: split(INPUTS, torch.randint(9, (ROWS,))),
        lambda: split(INPUTS[torch.randperm(ROWS)], torch.zeros(ROWS)),
    ],
    ids=["order", "more", "noise", "flips", "named", "labels", "inputs alone"],
)
def test_another_second_pass_is_refused(make: Callable[[], list]) -> None:
    torch.manual_seed(0)
    batches = RepeatedBatches(Made(make), "query")
    with pytest.raises(AttributionError, match="query comes in another order or with other values each time"):
        list(itertools.chain(batches, batches))


@pytest.mark.parametrize("named", [False, True])
def test_the_same_batches_pass_as_they_are(named: bool) -> None:
    inputs = INPUTS.clone()
    inputs[1, 0, 0], inputs[2, 0, 0] = float("nan"), float("inf")
    given = split({"a": inputs, "b": LABELS} if named else inputs, LABELS)
    batches = RepeatedBatches(Made(lambda: given), "train")
    for _ in range(3):
        assert [id(found) for pair in batches for found in pair] == [
            id(each) for pair in given for each in pair
        ]


def test_inputs_are_summed_in_two_passes_alone_and_never_in_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[object] = []
    monkeypatch.setattr(
        "pipeline.attribution.rows.repeated_batches._sums", lambda inputs: summed.append(inputs) or iter(())
    )
    given = split(INPUTS, LABELS)
    for batches, count in ((Made(lambda: given), 2 * len(given)), (given, 0)):
        summed.clear()
        repeated = RepeatedBatches(batches, "train")
        for _ in range(4):
            list(repeated)
        assert len(summed) == count


def test_batches_without_rows_are_left_out() -> None:
    given = [(INPUTS, LABELS), (INPUTS[:0], LABELS[:0])]
    assert len(list(RepeatedBatches(given, "train"))) == 1


def test_as_many_inputs_as_labels_are_needed() -> None:
    with pytest.raises(AttributionError, match="Batch 1 of train has 12 inputs and 7 labels"):
        list(RepeatedBatches([(INPUTS, LABELS), ({"a": INPUTS}, LABELS[:7])], "train"))


@pytest.mark.parametrize("method", ["source", "influence", "tracin", "loss"])
def test_shuffled_rows_of_no_loader_are_refused_by_every_method(tmp_path: Path, method: str) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    inputs, labels = (torch.cat(parts) for parts in zip(*train, strict=True))

    def make() -> list:
        order = torch.randperm(60)
        return [(inputs[order], labels[order])]

    with pytest.raises(AttributionError, match="train comes in another order"):
        attribute(model, trajectory, Made(make), query, method=method)
    with pytest.raises(AttributionError, match="query comes in another order"):
        attribute(model, trajectory, train, Made(make), method=method, reduce_queries=False)


class Product(nn.Module):
    """Of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(6, 4), nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.first(left.flatten(1)).tanh() * self.second(right).tanh())


def test_a_tuple_of_inputs_is_given_in_the_order_of_forwards_parameters(tmp_path: Path) -> None:
    model, right = Product(), INPUTS[:, 0] + 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=2, train_rows=ROWS, checkpoints=1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(INPUTS, right), LABELS).backward()
        optimizer.step()
        recorder.step()
    for options in ({"calibrate": True}, {"method": "source_refined"}):
        harm = [
            attribute(
                model, Trajectory.load(tmp_path), [(inputs, LABELS)], [(inputs, LABELS)], **options
            ).harm
            for inputs in ((INPUTS, right), [INPUTS, right], {"left": INPUTS, "right": right})
        ]
        assert harm[0] is not None
        torch.testing.assert_close(harm[0], harm[2], rtol=0, atol=0)
        torch.testing.assert_close(harm[1], harm[2], rtol=0, atol=0)
    three = [((INPUTS, right, right), LABELS)]
    with pytest.raises(AttributionError, match="There are 3 inputs, but forward has 2 parameters"):
        attribute(model, Trajectory.load(tmp_path), three, three)
