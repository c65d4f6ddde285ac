"""The optimizers of training are those of torch, bit for bit, without the import of the compiler."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.training.optimizer import make_optimizer
from pipeline.training.recipe import Recipe

RECIPE = Recipe(0.05, 0.9, 1e-3, "cosine", 128, 25, 7)
KINDS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda model: torch.optim.Adam(
        model.parameters(), 0.05, betas=(0.9, RECIPE.beta2), weight_decay=1e-3
    ),
    "adamw": lambda model: torch.optim.AdamW(
        model.parameters(), 0.05, betas=(0.9, RECIPE.beta2), weight_decay=1e-3
    ),
}


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 0.05 / (1 + step)
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_torch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    other = copy.deepcopy(model)
    expected = trained(other, KINDS[kind](other))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch._dynamo", None)  # its import is an error
        optimizer = make_optimizer(model, replace(RECIPE, optimizer=kind))
        found = trained(model, optimizer)
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert type(optimizer).__name__ == type(KINDS[kind](other)).__name__
    assert not any(parameter.grad_fn for parameter in model.parameters())
