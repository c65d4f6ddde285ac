from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pipeline.attribution import (
    AttributionError,
    CheckpointError,
    NonFiniteError,
    Objective,
    RefinedSettings,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    cross_entropy,
)

ROWS, WIDTH = 24, 3


def regression_rows(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, WIDTH, dtype=torch.float64, generator=generator)
    targets = (
        inputs @ torch.tensor([1.0, -2.0, 0.5]).double() + torch.randn(rows, generator=generator).double()
    )
    return inputs, targets


class Regression:
    """Gradient descent on linear regression, recorded, and differentiated by autograd throughout."""

    def __init__(
        self,
        directory: Path,
        *,
        lr: float,
        steps: int,
        checkpoints: int,
        momentum: float = 0.0,
        decay: float = 0.0,
    ) -> None:
        self.train, self.query = regression_rows(ROWS, 0), regression_rows(10, 1)
        self.lr, self.steps, self.momentum, self.decay = lr, steps, momentum, decay
        torch.manual_seed(0)
        self.model = nn.Linear(WIDTH, 1).double()
        self.start = [p.detach().clone() for p in self.model.parameters()]
        optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
        recorder = TrajectoryRecorder(
            self.model, optimizer, directory, checkpoints=checkpoints, steps=steps, train_rows=ROWS
        )
        for _ in range(steps):
            optimizer.zero_grad()
            (self.model(self.train[0]).squeeze(1) - self.train[1]).square().mean().backward()
            optimizer.step()
            recorder.step()
        self.trajectory = Trajectory.load(directory)

    def unrolled_harm(self) -> Tensor:
        """d(mean query loss)/d(row weight) through all of training: what removal lowers the loss by."""
        weights = torch.ones(ROWS, dtype=torch.float64, requires_grad=True)
        values = [value.clone().requires_grad_() for value in self.start]
        buffers = [torch.zeros_like(value) for value in values]
        for _ in range(self.steps):
            loss = (weights * self.losses(values, self.train)).mean()
            gradients = torch.autograd.grad(loss, values, create_graph=True)
            gradients = [g + self.decay * v for g, v in zip(gradients, values, strict=True)]
            buffers = [self.momentum * b + g for b, g in zip(buffers, gradients, strict=True)]
            values = [v - self.lr * b for v, b in zip(values, buffers, strict=True)]
        return torch.autograd.grad(self.losses(values, self.query).mean(), weights)[0]

    @staticmethod
    def losses(values: list[Tensor], rows: tuple[Tensor, Tensor]) -> Tensor:
        return (rows[0] @ values[0].T + values[1] - rows[1][:, None]).square().squeeze(1)

    def harm(self, segments: int) -> Tensor:
        scores = attribute(
            self.model,
            self.trajectory,
            [self.train],
            [self.query],
            loss="squared_error",
            segments=segments,
            query_at="final",
            fisher="exact",
        )
        assert scores.harm is not None
        return scores.harm


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


def test_one_segment_per_step_converges_to_exact_unrolling(tmp_path: Path) -> None:
    """Linear regression: EK-FAC is the exact Hessian; only the step size separates SOURCE from the truth."""
    errors = []
    for place, steps in enumerate((20, 40, 80)):
        run = Regression(tmp_path / str(place), lr=1.0 / steps, steps=steps, checkpoints=steps)
        exact, found = run.unrolled_harm(), run.harm(segments=steps)
        assert correlation(exact, found) > 0.999
        errors.append(((found - exact).abs().max() / exact.abs().max()).item())
    assert errors[2] < 0.02
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


@pytest.mark.parametrize("segments", [2, 3, 6])
def test_few_segments_correlate_with_exact_unrolling(tmp_path: Path, segments: int) -> None:
    run = Regression(tmp_path, lr=0.02, steps=60, checkpoints=12)
    assert correlation(run.unrolled_harm(), run.harm(segments)) > 0.99


@pytest.mark.parametrize(("momentum", "decay"), [(0.9, 0.0), (0.0, 0.3), (0.9, 0.3)])
def test_momentum_and_weight_decay_keep_size_and_order(tmp_path: Path, momentum: float, decay: float) -> None:
    run = Regression(
        tmp_path, lr=0.005 * (1 - momentum), steps=400, checkpoints=20, momentum=momentum, decay=decay
    )
    exact, found = run.unrolled_harm(), run.harm(segments=20)
    assert correlation(exact, found) > 0.99
    slope = (exact * found).sum() / exact.square().sum()
    assert slope.item() == pytest.approx(1.0, abs=0.1)


def classifier(directory: Path, batchnorm: bool = False) -> tuple[nn.Module, Trajectory, list, list]:
    torch.manual_seed(0)
    layers = [
        nn.Linear(4, 8),
        *([nn.BatchNorm1d(8)] if batchnorm else []),
        nn.ReLU(inplace=True),
        nn.Linear(8, 3),
    ]
    model = nn.Sequential(*layers).double()
    inputs = torch.randn(60, 4).double()
    labels = inputs[:, :3].argmax(1)
    labels[:6] = (labels[:6] + 1) % 3  # mislabelled
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = TrajectoryRecorder(model, optimizer, directory, steps=60, train_rows=60)
    for step in range(60):
        rows = torch.randperm(60)[:20]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
        recorder.step(epoch=(step + 1) / 3)
    clean = torch.randn(40, 4).double()
    query = [(clean[:25], clean[:25, :3].argmax(1)), (clean[25:], clean[25:, :3].argmax(1))]
    return (
        model,
        Trajectory.load(directory),
        list(zip(inputs.split(25), labels.split(25), strict=True)),
        query,
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"segments": 3}, {"query_at": "final"}, {"method": "influence"}, {"fisher": "exact"}],
    ids=lambda options: "-".join(map(str, options.values())) or "default",
)
def test_mislabelled_rows_come_out_as_harmful_and_self_influential(tmp_path: Path, options: dict) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    scores = attribute(model, trajectory, train, query, **options)
    assert scores.harm is not None
    assert scores.margins is not None
    for signal in (scores.harm, scores.self_influence, scores.losses[-1], -scores.margins[-1]):
        ranks = signal.argsort(descending=True).argsort()
        assert ranks[:6].double().mean() < ranks[6:].double().mean() - 15
    assert scores.losses.shape == (1 if options.get("method") == "influence" else 6, 60)


def test_queries_apart_average_to_the_reduced_harm(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    reduced = attribute(model, trajectory, train, query)
    apart = attribute(model, trajectory, train, query, reduce_queries=False, query_tolerance=0.0)
    assert apart.influence is not None
    assert apart.influence.shape == (40, 60)
    torch.testing.assert_close(apart.harm, reduced.harm)
    torch.testing.assert_close(-apart.influence.mean(0), reduced.harm)


@pytest.mark.parametrize("batchnorm", [False, True])
def test_the_model_is_put_back(tmp_path: Path, batchnorm: bool) -> None:
    model, trajectory, train, query = classifier(tmp_path, batchnorm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = attribute(model, trajectory, train, query)
    torch.testing.assert_close(dict(model.state_dict()), before, atol=0, rtol=0)
    assert model.training
    assert torch.isfinite(scores.self_influence).all()


def test_without_queries_there_is_no_harm(tmp_path: Path) -> None:
    model, trajectory, train, _ = classifier(tmp_path)
    scores = attribute(model, trajectory, train)
    assert scores.harm is None
    assert scores.influence is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "shapley"}, "'shapley'"),
        ({"query_at": "start"}, "'start'"),
        ({"loss": "hinge"}, "'hinge'"),
        ({"segments": 4}, "4 equal segments"),
        ({"query_tolerance": 1.0}, "query_tolerance is 1"),
        ({"query_tolerance": "x"}, "query_tolerance is 'x'"),
        ({"segments": "3"}, "segments is '3'"),
        ({"segments": 2.0}, r"segments is 2\.0"),
        ({"segments": (1, "x")}, r"segments is \(1, 'x'\)"),
        ({"damping": "x", "method": "influence"}, "damping is 'x'"),
        ({"damping": float("nan"), "method": "influence"}, "damping is nan"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"projection": 8.5, "method": "trak"}, r"projection is 8\.5"),
        ({"fisher": "drawn"}, "fisher is 'drawn'"),
        ({"fisher": "drawn", "method": "loss"}, "fisher is 'drawn'"),
        ({"calibrate": True, "method": "influence"}, "calibrate has no effect with method='influence'"),
        ({"calibrate": True, "method": "tracin"}, "calibrate has no effect with method='tracin'"),
        ({"calibrate": True, "segments": 2}, "calibrate has no effect with segments=2"),
        ({"calibrate": True, "reduce_queries": False}, "calibrate has no effect without the mean query loss"),
        ({"calibrate": True, "query": None}, "calibrate has no effect without the mean query loss"),
        ({"query": []}, "no queries"),
        ({"train": []}, "had 60 rows, but 0 are given"),
        ({"train": iter([])}, "only once"),
        ({"train": (torch.zeros(60, 4), torch.zeros(60))}, "not batches"),
        ({"train": TensorDataset(torch.zeros(60, 4), torch.zeros(60))}, "not batches"),
        ({"train": DataLoader(TensorDataset(torch.zeros(60, 4)), shuffle=True)}, "shuffles"),
        ({"train": [(torch.zeros(9, 4).double(), torch.zeros(9).long())]}, "had 60 rows, but 9 are given"),
        ({"train": [(torch.zeros(60, 4).double(), torch.zeros(60).int())]}, "labels are int32"),
        ({"train": [(torch.zeros(60, 4).double(), torch.full((60,), 3))]}, "none of the model's 3 classes"),
        ({"query": [(torch.zeros(2, 4).double(), torch.tensor([0, -1]))]}, "class -1"),
        ({"damping": -1.0, "method": "influence"}, r"damping is -1\.0"),
        ({"damping": 0.1}, "damping has no effect with method='source'.*method='influence'"),
        ({"recording": "folder"}, "recording has no effect with method='source'"),
        ({"refined": RefinedSettings()}, "refined has no effect with method='source'"),
        ({"segments": 2, "method": "influence"}, "segments has no effect with method='influence'"),
        ({"segments": (3,), "method": "loss"}, "segments has no effect with method='loss'"),
        ({"projection": 8}, "projection has no effect with method='source'"),
        ({"loss": cross_entropy}, "no Objective"),
        ({"trajectory": "folder"}, "trajectory is 'folder'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict, message: str) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    with pytest.raises(AttributionError, match=message):
        attribute(model, **({"trajectory": trajectory, "train": train, "query": query} | options))


@pytest.mark.parametrize(
    "loss", ["cross_entropy", cross_entropy(label_smoothing=0.1)], ids=["name", "objective"]
)
@pytest.mark.parametrize("where", ["train", "query"])
def test_inputs_that_the_model_refuses_are_named_with_their_batch(
    tmp_path: Path, where: str, loss: str | Objective
) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    given = {"train": train, "query": query}
    inputs, labels = given[where][1]
    for wrong, shape in ((inputs[:, :3], "float64 [{}, 3]"), (inputs.float(), "float32 [{}, 4]")):
        changed = given | {where: [given[where][0], (wrong, labels), *given[where][2:]]}
        said = f"can't take batch 1 of {where}, {shape.format(len(labels))}: RuntimeError: mat1 and mat2"
        with pytest.raises(AttributionError, match=re.escape(said)) as error:
            attribute(model, trajectory, **changed, loss=loss)
        assert isinstance(error.value.__cause__, RuntimeError)


def test_an_error_that_is_not_the_inputs_stays_what_it_is(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)

    def failing(_outputs: Tensor, _labels: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        attribute(model, trajectory, train, query, loss=replace(cross_entropy(), losses=failing))


class Untied(nn.Module):
    """The embedding's weight is used once more, without its module."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mixing = nn.Embedding(5, 4), nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.mixing(self.embedding(inputs)).mean(1) @ self.embedding.weight.T


@pytest.mark.parametrize("method", ["source", "influence", "trak"])
def test_a_weight_that_is_used_outside_its_module_is_warned_of_once(tmp_path: Path, method: str) -> None:
    torch.manual_seed(0)
    model = Untied()
    inputs, labels = torch.randint(5, (12, 3)), torch.randint(5, (12,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=2, train_rows=12, checkpoints=2)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        recorder.step()
    data = [(inputs[:6], labels[:6]), (inputs[6:], labels[6:])]
    with pytest.warns(UserWarning, match=r"embedding\.weight: used outside the layer's own call") as warned:
        attribute(model, Trajectory.load(tmp_path), data, data, method=method)
    assert len(warned) == 1
    assert warned[0].filename == __file__


def test_a_trajectory_of_another_model_is_an_error(tmp_path: Path) -> None:
    _, trajectory, train, query = classifier(tmp_path)
    with pytest.raises(CheckpointError, match=r"10\.safetensors"):
        attribute(nn.Sequential(nn.Linear(4, 3)).double(), trajectory, train, query)


def test_a_query_of_an_unknown_class_is_named(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    wrong = [query[0], (query[1][0], query[1][1] + 1)]
    for reduce_queries in (True, False):
        with pytest.raises(AttributionError, match="class 3, but the model has 3 outputs"):
            attribute(model, trajectory, train, wrong, reduce_queries=reduce_queries)


def test_a_nan_in_the_data_is_named_with_layer_checkpoint_and_rows(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    broken = [(inputs.clone(), labels) for inputs, labels in train]
    broken[1][0][3, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"layer '\d' .* at checkpoint 0, in the batch of rows 25 to 49"):
        attribute(model, trajectory, broken, query)


def test_more_segments_than_checkpoints_are_refused(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    with pytest.raises(AttributionError, match=r"6 checkpoints can't be cut into 7.*Record more"):
        attribute(model, trajectory, train, query, segments=7)


def test_a_scale_is_measured_where_it_is_defined(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    plain = attribute(model, trajectory, train, query)
    scaled = attribute(model, trajectory, train, query, calibrate=True)
    assert scaled.scale is not None
    assert 0 < scaled.scale < 1
    torch.testing.assert_close(scaled.harm, plain.harm * scaled.scale)


@pytest.mark.parametrize("method", ["source", "fast_source", "source_refined", "tracin", "influence", "trak"])
@pytest.mark.parametrize("reduce_queries", [True, False])
def test_a_nan_in_a_query_names_the_query_and_no_training_row(
    tmp_path: Path, method: str, reduce_queries: bool
) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    broken = [(inputs.clone(), labels) for inputs, labels in query]
    broken[1][0][3, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="query 28 has") as error:
        attribute(model, trajectory, train, broken, method=method, reduce_queries=reduce_queries)
    assert "row" not in error.value.message


def test_a_nan_in_a_row_is_named_where_features_are_compared(tmp_path: Path) -> None:
    model, trajectory, train, query = classifier(tmp_path)
    broken = [(inputs.clone(), labels) for inputs, labels in train]
    broken[1][0][3, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="training row 28"):
        attribute(model, trajectory, broken, query, method="representation")


def test_it_is_warned_of_much_that_is_not_covered(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Bilinear(6, 6, 2)).double()
    model[2].forward = lambda hidden: nn.Bilinear.forward(model[2], hidden, hidden)
    inputs, labels = torch.randn(12, 4).double(), torch.arange(12) % 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=2, train_rows=12, checkpoints=2)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        recorder.step()
    said = r"covers 27% of the parameters: influence through 1\.weight, 2\.weight, 2\.bias is not seen \(Bilinear"
    with pytest.warns(UserWarning, match=said) as warned:
        attribute(model, Trajectory.load(tmp_path), [(inputs, labels)], [(inputs, labels)])
    assert [each.filename for each in warned] == [__file__]
