from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution.model.unseen import unseen_gradients

from .models import model_and_rows


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["mlp", "convnet", "tokens", "twice", "grouped", "tied", "transformer"])
def test_nothing_is_missed_in_ordinary_models(kind: str, precision: torch.dtype) -> None:
    model, batch = model_and_rows(kind)
    model.to(precision).train()
    inputs = batch.inputs.to(precision) if batch.inputs.is_floating_point() else batch.inputs
    assert unseen_gradients(model, inputs) == []
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_weight_that_is_used_outside_its_module_is_named() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.mixing = nn.Embedding(5, 4), nn.Linear(4, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.mixing(self.embedding(inputs)).mean(1) @ self.embedding.weight.T

    assert unseen_gradients(Functional(), torch.randint(0, 5, (4, 3))) == ["embedding.weight"]


def test_a_layer_that_is_never_called_is_named() -> None:
    class Bypassed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.idle = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = nn.functional.linear(inputs, self.first.weight, self.first.bias)
            return self.second(torch.tanh(hidden))

    assert unseen_gradients(Bypassed(), torch.randn(4, 4)) == ["first.weight", "first.bias"]


def test_gradients_need_no_import_of_sympy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch imports it for `grad_outputs`, which takes half a second in every process."""
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.symbolic_shapes", None)  # its import is an error
    assert unseen_gradients(nn.Linear(3, 2), torch.randn(4, 3)) == []
