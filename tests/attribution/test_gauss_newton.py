"""Gauss–Newton products against dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from attribution.models import Tokens, Twice, convnet, mlp
from pipeline.attribution import Batch, covered_layers, get_objective
from pipeline.attribution.curvature.gauss_newton import (
    gauss_newton_forms,
    gauss_newton_products,
    parameter_product,
)
from pipeline.attribution.model.coverage import matrix_parameters
from pipeline.attribution.rows.derivatives import row_products

ROWS, CLASSES = 7, 3


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(3, 4)
        self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.block(self.embedding(inputs)).mean(1))


def model_and_batch(kind: str, weighted: bool = False) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    models = {"mlp": mlp, "convnet": convnet, "tokens": Tokens, "twice": Twice, "attention": Attention}
    shapes = {"convnet": (2, 5, 5), "attention": (5, 3)}
    inputs = torch.randn(ROWS, *shapes.get(kind, (4,))).double()
    if kind == "tokens":
        inputs = torch.randint(1, 7, (ROWS, 5))
    weights = torch.rand(ROWS).double() if weighted else None
    return models[kind]().double(), Batch(
        inputs, torch.randint(CLASSES, (ROWS,)), torch.arange(ROWS), weights
    )


def dense_matrix(model: nn.Module, batch: Batch, names: list[str]) -> Tensor:
    """Σ w Jᵀ (diag p − p pᵀ) J over the named parameters, in their order."""
    rows = len(batch.labels)
    model.eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        jacobian = jacrev(lambda p: functional_call(model, p, (batch.inputs,)))(parameters)
    flat = torch.cat([jacobian[name].reshape(rows, CLASSES, -1) for name in names], 2)
    p = model(batch.inputs).softmax(1).detach()
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    weights = torch.ones(rows).double() if batch.weights is None else batch.weights
    return torch.einsum("n,nki,nkl,nlj->ij", weights, flat, hessian, flat)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens", "twice"])
def test_products_of_covered_layers_agree_with_a_dense_matrix(kind: str, weighted: bool) -> None:
    model, batch = model_and_batch(kind, weighted)
    directions = {
        layer.name: torch.randn(2, *layer.shape, dtype=torch.float64) for layer in covered_layers(model)
    }
    one_by_one = [{name: value[place] for name, value in directions.items()} for place in range(2)]
    found = gauss_newton_products(model, get_objective("cross_entropy"), batch, directions)
    forms = gauss_newton_forms(model, get_objective("cross_entropy"), batch, directions)
    for place, direction in enumerate(one_by_one):
        tensors = matrix_parameters(model, direction)
        flat = torch.cat([value.flatten() for value in tensors.values()])
        dense = dense_matrix(model, batch, list(tensors))
        mine = matrix_parameters(model, {name: value[place] for name, value in found.items()})
        torch.testing.assert_close(
            torch.cat([value.flatten() for value in mine.values()]), dense @ flat, rtol=1e-9, atol=1e-12
        )
        torch.testing.assert_close(forms[place], flat @ dense @ flat, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["mlp", "convnet", "attention"])
def test_the_product_of_all_parameters_agrees_with_a_dense_matrix(kind: str) -> None:
    model, batch = model_and_batch(kind)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    direction = {name: torch.randn_like(p) for name, p in parameters.items()}
    found = parameter_product(model, get_objective("cross_entropy"), batch, parameters, direction)
    dense = dense_matrix(model, batch, list(parameters))
    expected = dense @ torch.cat([value.flatten() for value in direction.values()])
    flat = torch.cat([found[name].flatten() for name in parameters])
    torch.testing.assert_close(flat, expected, rtol=1e-9, atol=1e-12)


def test_images_with_permuted_axes_are_taken() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)
    ).double()
    images, labels = torch.randn(6, 5, 5, 3, dtype=torch.float64).permute(0, 3, 1, 2), torch.arange(6) % 3
    directions = {
        layer.name: torch.randn(2, *layer.shape, dtype=torch.float64) for layer in covered_layers(model)
    }
    parameters = dict(model.named_parameters())
    permuted, plain = (Batch(inputs, labels, torch.arange(6)) for inputs in (images, images.contiguous()))
    found, expected = (
        gauss_newton_products(model, get_objective("cross_entropy"), batch, directions)
        for batch in (permuted, plain)
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    found, expected = (
        parameter_product(model, get_objective("cross_entropy"), batch, parameters, parameters)
        for batch in (permuted, plain)
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    losses = [
        row_products(model, get_objective("cross_entropy"), batch, parameters, parameters)
        for batch in (permuted, plain)
    ]
    torch.testing.assert_close(*losses)
