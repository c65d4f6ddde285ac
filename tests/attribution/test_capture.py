from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.attribution import AttributionError, Batch, capture, coverage, covered_layers, cross_entropy
from pipeline.attribution.model.coverage import matrix_parameters, parameter_matrices

from .models import Twice, model_and_rows
from .oracles import loss_matrices


def captured_matrices(model, objective, batch):
    with capture(model) as captured:
        losses = objective.losses(captured.forward(batch.inputs), batch.labels)
        return {name: g.matrices() for name, g in captured.gradients(losses, torch.ones_like(losses))}


KINDS = ["mlp", "convnet", "tokens", "twice", "grouped", "tied", "transformer", "sequence first"]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_a_backward_pass_per_row(kind: str) -> None:
    model, batch = model_and_rows(kind)
    found = captured_matrices(model, cross_entropy(), batch)
    expected = loss_matrices(model, cross_entropy(), batch.inputs, batch.labels)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_the_model_is_left_as_it_was() -> None:
    model, batch = model_and_rows("convnet")
    model.train()
    model[4].eval()
    model[3].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    captured_matrices(model, cross_entropy(), batch)
    wrong = replace(batch, labels=batch.labels + 100)
    with pytest.raises(AttributionError, match="A label is none of the model's"):
        captured_matrices(model, cross_entropy(), wrong)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["3.weight"]
    assert [module.training for module in model] == [True, True, True, True, False, True, True]
    assert all(not module._forward_hooks for module in model.modules())


def test_in_place_operations_on_a_layer_with_positions() -> None:
    """A Linear layer returns a view for inputs of rank 3; later in-place changes must not be missed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3), nn.ReLU(inplace=True), nn.Flatten()
    )
    model.double()
    inputs = torch.randn(6, 2, 4).double()
    batch = Batch(inputs, torch.randint(0, 6, (6,)), torch.arange(6))
    found = captured_matrices(model, cross_entropy(), batch)
    expected = loss_matrices(model, cross_entropy(), inputs, batch.labels)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_two_modules_that_share_all_parameters_are_one_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model[2].weight, model[2].bias = model[0].weight, model[0].bias
    (layer,) = covered_layers(model)
    assert (layer.name, layer.modules, layer.parameters) == ("0", ("0", "2"), 12)
    inputs, labels = torch.randn(5, 3).double(), torch.randint(0, 3, (5,))
    batch = Batch(inputs, labels, torch.arange(5))
    found = captured_matrices(model, cross_entropy(), batch)
    torch.testing.assert_close(found, loss_matrices(model, cross_entropy(), inputs, labels))


def test_coverage_names_what_is_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.PReLU(6), nn.Linear(3, 2))
    found = coverage(model)
    assert (found.uncovered, found.types) == (["1.weight"], ["PReLU"])
    assert (found.covered, found.total) == (15 + 8, 15 + 6 + 8)
    assert found.share == pytest.approx(23 / 29)


def test_everything_in_a_transformer_is_covered() -> None:
    for kind in ("transformer", "grouped", "tied"):
        found = coverage(model_and_rows(kind)[0])
        assert (found.share, found.uncovered, found.types) == (1.0, [], [])


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_and_parameters_are_two_forms_of_the_same_numbers(kind: str) -> None:
    model, batch = model_and_rows(kind)
    objective = cross_entropy()
    gradient = {n: g.sum(0) for n, g in captured_matrices(model, objective, batch).items()}
    model.eval()
    objective.losses(model(batch.inputs), batch.labels).sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    torch.testing.assert_close(matrix_parameters(model, gradient), expected)
    torch.testing.assert_close(parameter_matrices(model, expected), gradient)


def test_a_weight_that_a_module_without_a_rule_shares_is_not_covered() -> None:
    class Scores(nn.Module):
        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.weight = weight

    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 2))
    model[1].weight = model[0].weight
    assert [(layer.name, layer.kind) for layer in covered_layers(model)] == [("0", "tied"), ("2", "linear")]
    model.append(Scores(model[0].weight))
    assert [layer.name for layer in covered_layers(model)] == ["2"]
    assert coverage(model).uncovered == ["0.weight"]


def test_linear_layers_with_one_weight_and_two_biases_are_one_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    (layer,) = covered_layers(model)
    assert (layer.shape, layer.parameters, layer.modules) == ((3, 5), 15, ("0", "2"))
    inputs, labels = torch.randn(5, 3).double(), torch.randint(0, 3, (5,))
    found = captured_matrices(model, cross_entropy(), Batch(inputs, labels, torch.arange(5)))["0"]
    for row in range(5):
        model.zero_grad()
        cross_entropy().losses(model(inputs[row : row + 1]), labels[row : row + 1]).sum().backward()
        biases = [model[0].bias.grad[:, None], model[2].bias.grad[:, None]]
        torch.testing.assert_close(found[row], torch.cat([model[0].weight.grad, *biases], 1))


def test_the_head_decides_the_basis_of_a_tied_weight() -> None:
    model, batch = model_and_rows("tied")
    seen: dict[str, torch.Tensor] = {}
    handle = model.head.register_forward_hook(lambda _m, args, _o: seen.update(inputs=args[0].detach()))
    with capture(model) as captured:
        outputs = captured.forward(batch.inputs)
        found = dict(captured.gradients(outputs, torch.ones_like(outputs)))["embedding"]
    handle.remove()
    inputs = torch.cat([seen["inputs"], torch.ones(9, 5, 1).double()], 2).flatten(0, 1)
    torch.testing.assert_close(found.input_covariance(None), inputs.T @ inputs)


def test_torchs_fused_transformer_is_off_only_while_a_model_is_watched() -> None:
    model, batch = model_and_rows("transformer")
    assert torch.backends.mha.get_fastpath_enabled()
    captured_matrices(model, cross_entropy(), batch)
    assert torch.backends.mha.get_fastpath_enabled()
    assert "forward" not in vars(model.encoder.self_attn)


def test_padding_takes_no_part_in_a_transformers_factors() -> None:
    """The same rows with two more positions of padding have the same sums."""
    model, batch = model_and_rows("transformer")
    longer = replace(batch, inputs=nn.functional.pad(batch.inputs, (0, 2)))

    def sums(rows: Batch) -> dict[str, tuple[torch.Tensor, ...]]:
        objective = cross_entropy()
        with capture(model) as captured:
            losses = objective.losses(captured.forward(rows.inputs), rows.labels)
            each = dict(captured.gradients(losses, torch.ones_like(losses)))
        return {n: (g.input_covariance(None), g.gradient_covariance(), g.total()) for n, g in each.items()}

    torch.testing.assert_close(sums(longer), sums(batch))


def test_dictionaries_reach_the_model_as_they_are() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(2, 3), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.left(inputs["a"]) + self.right(input=inputs["b"])

    model = Named().double()
    inputs = {"a": torch.randn(5, 2).double(), "b": torch.randn(5, 4).double()}
    labels = torch.randint(0, 3, (5,))
    batch = Batch(inputs, labels, torch.arange(5))
    found = captured_matrices(model, cross_entropy(), batch)
    torch.testing.assert_close(found, loss_matrices(model, cross_entropy(), inputs, labels))


class Partly(nn.Module):
    """Two layers, the first of which is called by a function of the caller's."""

    def __init__(self, call: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.head, self.call = nn.Linear(4, 5), nn.Linear(5, 3), call

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.call(self.inner, inputs))


def without_gradients(inner: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return inner(inputs)


@pytest.mark.parametrize(
    "call",
    [
        without_gradients,
        lambda inner, inputs: checkpoint(inner, inputs.requires_grad_(), use_reentrant=True),
    ],
    ids=["no_grad", "reentrant checkpoint"],
)
def test_a_layer_whose_gradients_cannot_be_read_is_named(call: Callable) -> None:
    _, batch = model_and_rows("mlp")
    with pytest.raises(AttributionError, match=r"Layer 'inner' runs under torch\.no_grad\(\) or torch"):
        captured_matrices(Partly(call).double(), cross_entropy(), batch)


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_a_model_that_returns_no_tensor_is_told_to_be_wrapped(kind: str) -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, inputs: torch.Tensor) -> object:
            return {"scores": self.head(inputs)} if kind == "dict" else (self.head(inputs), inputs)

    _, batch = model_and_rows("mlp")
    with pytest.raises(AttributionError, match=f"returns {kind} and not a tensor.*Wrap it"):
        captured_matrices(Several().double(), cross_entropy(), batch)


def test_a_model_without_covered_layers_is_an_error() -> None:
    with pytest.raises(AttributionError, match="no layer"), capture(nn.PReLU()):
        pass


def test_one_module_twice_counts_once() -> None:
    assert [(layer.name, layer.parameters) for layer in covered_layers(Twice())] == [
        ("inner", 20),
        ("head", 15),
    ]


@pytest.mark.parametrize(
    ("module", "numbers"),
    [
        (nn.Linear(6, 3), 3 * 3 + 7 * 7),
        (nn.Conv2d(2, 3, (1, 3)), 3 * 3 + 7 * 7),
        (nn.Embedding(7, 3), 3 * 3 + 7),
        (nn.LayerNorm(3), 3 + 2),
    ],
)
def test_numbers_in_a_layers_factors(module: nn.Module, numbers: int) -> None:
    (layer,) = covered_layers(module)
    assert layer.factor_numbers == numbers
