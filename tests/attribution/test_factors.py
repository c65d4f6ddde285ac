from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import (
    AttributionError,
    FactorSums,
    NonFiniteError,
    add_tensors,
    covariance_sums,
    covered_layers,
    cross_entropy,
    eigenbases,
    eigenbases_from_tensors,
    eigenbases_to_tensors,
    eigenvalue_sums,
    get_objective,
)

from .models import Tokens, model_and_rows
from .oracles import dense_basis, layer_matrices, split

KINDS = ["mlp", "convnet", "tokens", "twice", "grouped", "tied", "transformer"]
DRAW = {"seed": 1, "checkpoint": 2}


def plain_covariances(model: nn.Module, objective, inputs: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Σ ā āᵀ and Σ g gᵀ of a Linear layer with exact labels: one row, one column of the root at a time."""
    module = dict(model.named_modules())[name]
    size_out, size_in = module.weight.shape
    a_sum, s_sum = torch.zeros(size_in + 1, size_in + 1).double(), torch.zeros(size_out, size_out).double()
    for row in range(len(inputs)):
        columns = objective.exact_output_gradients(model(inputs[row : row + 1]))
        for place, column in enumerate(columns):
            calls: list[tuple[Tensor, Tensor]] = []

            def keep(_module, args, output, calls=calls) -> Tensor:
                output.retain_grad()
                calls.append((args[0].detach(), output))
                return output.clone()  # what follows works in place

            handle = module.register_forward_hook(keep)
            (model(inputs[row : row + 1]) * column).sum().backward()
            handle.remove()
            for seen, output in calls:
                a = torch.nn.functional.pad(seen.reshape(-1, size_in), (0, 1), value=1.0)
                g = output.grad.reshape(-1, size_out)
                a_sum += a.T @ a if place == 0 else 0.0
                s_sum += g.T @ g
    return a_sum, s_sum


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize(
    ("kind", "layer"), [("mlp", "0"), ("mlp", "4"), ("tokens", "mixing"), ("twice", "inner")]
)
def test_exact_covariances_of_linear_layers(kind: str, layer: str, loss: str) -> None:
    model, batch = model_and_rows(kind)
    objective = get_objective(loss)
    sums = covariance_sums(model, objective, batch.inputs, batch.row_ids, **DRAW, fisher="exact")
    expected_input, expected_gradient = plain_covariances(model, objective, batch.inputs, layer)
    assert sums.examples == len(batch.row_ids)
    torch.testing.assert_close(sums.input[layer], expected_input)
    torch.testing.assert_close(sums.gradient[layer], expected_gradient)


def test_covariances_of_a_convolution_are_those_of_its_patches() -> None:
    model, batch = model_and_rows("convnet")
    sums = covariance_sums(model, cross_entropy(), batch.inputs, batch.row_ids, **DRAW, fisher="exact")
    padded = nn.functional.pad(batch.inputs, (1, 1, 1, 1))
    expected = torch.zeros(19, 19).double()
    for row in range(len(padded)):
        for top in range(5):
            for left in range(5):
                patch = padded[row, :, top : top + 3, left : left + 3].flatten()
                a = torch.cat([patch, torch.ones(1).double()])
                expected += torch.outer(a, a)
    torch.testing.assert_close(sums.input["0"], expected)


def test_input_covariance_of_an_embedding_counts_tokens_without_padding() -> None:
    model, batch = model_and_rows("tokens")
    sums = covariance_sums(model, cross_entropy(), batch.inputs, batch.row_ids, **DRAW)
    expected = torch.bincount(batch.inputs.flatten(), minlength=7).double()
    expected[0] = 0
    torch.testing.assert_close(sums.input["embedding"], expected)
    assert eigenbases(sums)["embedding"].input is None


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("kind", KINDS)
def test_exact_spectrum_is_the_mean_square_of_rotated_gradients(kind: str, loss: str) -> None:
    model, batch = model_and_rows(kind)
    objective = get_objective(loss)
    sums = covariance_sums(model, objective, batch.inputs, batch.row_ids, **DRAW, fisher="exact")
    bases = eigenbases(sums)
    found = eigenvalue_sums(model, objective, batch.inputs, batch.row_ids, bases, **DRAW, fisher="exact")
    expected = {layer.name: torch.zeros(layer.shape).double() for layer in covered_layers(model)}
    for k in range(3):
        matrices = layer_matrices(
            model,
            batch.inputs,
            len(batch.row_ids),
            lambda out, _row, k=k: (out * objective.exact_output_gradients(out)[k]).sum(),
        )
        for name, value in matrices.items():
            outputs, inputs = dense_basis(bases[name], value)
            expected[name] += (outputs.T @ value @ inputs).square().sum(0)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_eigenbases_diagonalise_the_covariances() -> None:
    model, batch = model_and_rows("mlp")
    sums = covariance_sums(model, cross_entropy(), batch.inputs, batch.row_ids, **DRAW)
    for name, basis in eigenbases(sums).items():
        for vectors, covariance in ((basis.input, sums.input[name]), (basis.gradient, sums.gradient[name])):
            diagonal = vectors.T @ covariance @ vectors
            torch.testing.assert_close(diagonal, torch.diag(diagonal.diagonal()), atol=1e-12, rtol=0)
            torch.testing.assert_close(vectors.T @ vectors, torch.eye(len(vectors)).double())


def test_sampled_curvature_tends_to_the_exact_one() -> None:
    model, batch = model_and_rows("mlp")
    exact = covariance_sums(model, cross_entropy(), batch.inputs, batch.row_ids, **DRAW, fisher="exact")
    draws = FactorSums({}, {}, 0)
    for seed in range(400):
        draws += covariance_sums(model, cross_entropy(), batch.inputs, batch.row_ids, seed=seed, checkpoint=0)
    for name, value in exact.gradient.items():
        mean = draws.gradient[name] / draws.examples * exact.examples
        torch.testing.assert_close(mean, value, atol=0.1 * value.abs().max().item(), rtol=0)


@pytest.mark.parametrize("fisher", ["mc", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_do_not_depend_on_how_rows_are_batched(kind: str, fisher: str) -> None:
    model, batch = model_and_rows(kind)

    def both_passes(size: int) -> tuple[FactorSums, dict[str, Tensor]]:
        sums, squares = FactorSums({}, {}, 0), {}
        for part in split(batch, size):
            sums += covariance_sums(model, cross_entropy(), part.inputs, part.row_ids, **DRAW, fisher=fisher)
        bases = eigenbases(sums)
        for part in split(batch, size):
            squares = add_tensors(
                squares,
                eigenvalue_sums(
                    model, cross_entropy(), part.inputs, part.row_ids, bases, **DRAW, fisher=fisher
                ),
            )
        return sums, squares

    (whole, whole_squares), (parts, part_squares) = both_passes(100), both_passes(2)
    assert whole.examples == parts.examples
    for name in whole.gradient:
        torch.testing.assert_close(whole.input[name], parts.input[name])
        torch.testing.assert_close(whole.gradient[name], parts.gradient[name])
        # Eigenvectors of a null space are arbitrary; the total curvature is not.
        torch.testing.assert_close(whole_squares[name].sum(), part_squares[name].sum())


@pytest.mark.parametrize("kind", KINDS)
def test_a_rows_weight_counts_like_copies(kind: str) -> None:
    model, batch = model_and_rows(kind, rows=4)
    weights = torch.tensor([2.0, 0.0, 1.0, 3.0]).double()
    rows = torch.tensor([0, 0, 2, 3, 3, 3])
    weighted = covariance_sums(model, cross_entropy(), batch.inputs, batch.row_ids, **DRAW, weights=weights)
    copied = covariance_sums(model, cross_entropy(), batch.inputs[rows], batch.row_ids[rows], **DRAW)
    bases = eigenbases(copied)
    squares = eigenvalue_sums(
        model, cross_entropy(), batch.inputs, batch.row_ids, bases, **DRAW, weights=weights
    )
    copied_squares = eigenvalue_sums(
        model, cross_entropy(), batch.inputs[rows], batch.row_ids[rows], bases, **DRAW
    )
    for name in bases:
        torch.testing.assert_close(weighted.input[name], copied.input[name])
        torch.testing.assert_close(weighted.gradient[name], copied.gradient[name])
        torch.testing.assert_close(squares[name], copied_squares[name])


def test_padding_tokens_change_nothing() -> None:
    torch.manual_seed(0)
    model = Tokens().double()
    model.mixing, model.forward = (
        nn.Identity(),
        lambda t: model.head(torch.nn.functional.pad(model.embedding(t).sum(1), (0, 1))),
    )
    tokens, rows = torch.randint(1, 7, (4, 3)), torch.arange(4)
    longer = torch.cat([tokens, torch.zeros(4, 2, dtype=torch.int64)], 1)
    short = covariance_sums(model, cross_entropy(), tokens, rows, **DRAW)
    long = covariance_sums(model, cross_entropy(), longer, rows, **DRAW)
    bases = eigenbases(short)
    for name in bases:
        torch.testing.assert_close(short.input[name], long.input[name])
        torch.testing.assert_close(short.gradient[name], long.gradient[name])
    torch.testing.assert_close(
        eigenvalue_sums(model, cross_entropy(), tokens, rows, bases, **DRAW),
        eigenvalue_sums(model, cross_entropy(), longer, rows, bases, **DRAW),
    )


def test_tensors_round_trip() -> None:
    model, batch = model_and_rows("tokens")
    sums = covariance_sums(model, cross_entropy(), batch.inputs, batch.row_ids, **DRAW)
    again = FactorSums.from_tensors(sums.to_tensors())
    assert again.examples == sums.examples
    torch.testing.assert_close(again.input, sums.input, atol=0, rtol=0)
    torch.testing.assert_close(again.gradient, sums.gradient, atol=0, rtol=0)
    bases = eigenbases(sums)
    for name, basis in eigenbases_from_tensors(eigenbases_to_tensors(bases)).items():
        assert torch.equal(basis.gradient, bases[name].gradient)
        assert (basis.input is None) == (name == "embedding")


def test_nan_names_the_layer() -> None:
    model, batch = model_and_rows("mlp")
    sums = covariance_sums(model, cross_entropy(), batch.inputs, batch.row_ids, **DRAW)
    sums.gradient["2"][0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="layer '2'"):
        eigenbases(sums)
    batch.inputs[3, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="layer '0'"):
        covariance_sums(model, cross_entropy(), batch.inputs, batch.row_ids, **DRAW)


def test_empty_factors_and_an_unknown_fisher_are_errors() -> None:
    with pytest.raises(AttributionError, match="no examples"):
        eigenbases(FactorSums({}, {}, 0))
    model, batch = model_and_rows("mlp")
    with pytest.raises(AttributionError, match="'true'"):
        covariance_sums(model, cross_entropy(), batch.inputs, batch.row_ids, **DRAW, fisher="true")
