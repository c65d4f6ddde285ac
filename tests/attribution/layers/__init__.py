"""One oracle for every layer rule: per-example gradients by ``torch.func``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.attribution import capture, covered_layers

from ..oracles import NORMS


def assert_matches_functional_gradients(model: nn.Module, inputs: Tensor) -> None:
    """The captured gradients of one layer equal ``vmap(grad)`` of a non-linear scalar of its outputs."""
    layer = covered_layers(model)[0]
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def value(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (row[None],)).pow(3).sum()

    with capture(model) as captured:
        outputs = captured.forward(inputs)
        ((name, gradients),) = captured.gradients(outputs, 3 * outputs.detach().square())
        found = gradients.matrices()
        total = gradients.total()
        filters = torch.randn(2, *layer.shape, dtype=found.dtype)
        products = gradients.products(filters)
    assert name == layer.name
    assert found.shape == (len(inputs), *layer.shape)
    if len(inputs) == 0:
        return
    expected = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0))(parameters, inputs)
    weight = expected["weight"]
    if layer.pieces[0].transposed:
        matrix = weight.transpose(1, 2)
    elif isinstance(model, NORMS) or weight.dim() == 2:
        matrix = weight.flatten(1)[:, :, None]
    else:
        matrix = weight.flatten(2)
    if layer.bias:
        matrix = torch.cat([matrix, expected["bias"].flatten(1)[:, :, None]], 2)
    torch.testing.assert_close(found, matrix)
    torch.testing.assert_close(total, matrix.sum(0))
    torch.testing.assert_close(products, torch.einsum("qoi,boi->qb", filters, matrix))
    torch.testing.assert_close(gradients.products(filters[0]), products[0])
