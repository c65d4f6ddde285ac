"""Influence functions with curvlinops's EK-FAC of Linear and Conv2d layers, its exact Fisher, at the final weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.lds.bases import Base
from benchmarks.lds.peer import Given, given, summed_loss, summed_query
from benchmarks.lds.tasks import Task

Weights = dict[str, Tensor]

BATCH = 256
# Rows whose gradients are held at once.
ROWS = 64
DAMPING = 0.1


def curvlinops_influence(base: Base, kind: str, _: str) -> Tensor:
    """τ of influence functions, each layer damped by a tenth of its mean eigenvalue: float64 `[queries, rows]`."""
    asked, task = given(base, kind), base.task
    weights = covered_weights(asked.model)
    curvature = fitted(task, asked, weights)

    def loss(weights: Weights, inputs: Tensor, label: Tensor) -> Tensor:
        return summed_loss(task, functional_call(asked.model, weights, (inputs[None],)), label[None])

    def query(weights: Weights, inputs: Tensor, labels: Tensor) -> Tensor:
        return summed_query(task, kind, functional_call(asked.model, weights, (inputs,)), labels)

    inputs, labels = asked.queries
    with torch.no_grad():
        if kind == "margins":
            gradients = vmap(grad(query), (None, 0, 0))(weights, inputs[:, None], labels[:, None])
        else:
            whole = grad(query)(weights, inputs, labels)
            gradients = {name: value[None] / len(labels) for name, value in whole.items()}
        filters = preconditioned(curvature, gradients)
        row_gradients, parts = vmap(grad(loss), (None, 0, 0)), []
        for inputs, labels in zip(*(part.split(ROWS) for part in asked.rows), strict=True):
            rows = row_gradients(weights, inputs, labels)
            products = [filters[name].flatten(1) @ rows[name].flatten(1).T for name in weights]
            parts.append(torch.stack(products).sum(0))
    return torch.cat(parts, 1).double()


def covered_weights(model: nn.Module) -> Weights:
    """Those of the layers that curvlinops knows, by name."""
    covered = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return {name: value for name, value in model.named_parameters() if name.rpartition(".")[0] in covered}


def fitted(task: Task, asked: Given, weights: Weights) -> Any:
    """curvlinops's EK-FAC, a sum over rows, of `weights`, parameters of the model."""
    from curvlinops import EKFACLinearOperator

    inputs, labels = asked.fitted
    loss: nn.Module = nn.CrossEntropyLoss(reduction="sum")
    if task.recipe.loss == "squared_error":
        loss, labels = nn.MSELoss(reduction="sum"), labels[:, None]
    found = EKFACLinearOperator(
        asked.model,
        loss,
        list(weights.values()),
        list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True)),
        fisher_type="type-2",
        separate_weight_and_bias=False,
        check_deterministic=False,
        num_per_example_loss_terms=1,
    )
    found.compute_eigenvalue_correction()
    return found


def preconditioned(curvature: Any, gradients: Weights) -> Weights:
    """(F + λ)⁻¹ times gradients `[queries, …]` by weight; F is a sum over rows, so 1/N is in it."""
    from curvlinops import KFACInverseLinearOperator

    columns = [value.movedim(0, -1) for value in gradients.values()]
    found = {}
    # An inverse damps all layers by the same number: one for each layer.
    for layer, eigenvalues in curvature.state_dict()["corrected_eigenvalues"].items():
        damping = DAMPING * float(eigenvalues.mean())
        inverse = KFACInverseLinearOperator(curvature, damping, use_exact_damping=True)
        for name, product in zip(gradients, inverse @ columns, strict=True):
            if name.rpartition(".")[0] == layer:
                found[name] = product.movedim(-1, 0)
    return found
