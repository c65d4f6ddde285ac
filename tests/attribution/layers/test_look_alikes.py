"""Layers of libraries that aren't imported: known by their name or by what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import coverage
from pipeline.attribution.layers import find_rule

from . import assert_matches_functional_gradients


class LlamaNorm(nn.Module):
    """As ``LlamaRMSNorm``: computed in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, size))
        self.variance_epsilon = 1e-6

    def forward(self, hidden: Tensor) -> Tensor:
        given, hidden = hidden.dtype, hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * hidden.to(given)


class GemmaNorm(nn.Module):
    """As ``GemmaRMSNorm``: 1 is added to the weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.5, 0.5, size))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1.0 + self.weight)


class CentredNorm(LlamaNorm):
    """Something else that looks the same from outside."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden - hidden.mean(-1, keepdim=True))


class Conv1D(nn.Module):
    """As that of transformers: a linear layer whose weight is ``[in, out]``."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], len(self.bias))


Conv1D.__module__ = "transformers.pytorch_utils"


@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4)])
@pytest.mark.parametrize(
    "make", [LlamaNorm, GemmaNorm, lambda size: Conv1D(6, size)], ids=["llama", "gemma", "conv1d"]
)
def test_matches_functional_gradients(make, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    assert_matches_functional_gradients(make(4).double(), torch.randn(shape).double())


def test_everything_is_covered() -> None:
    model = nn.Sequential(Conv1D(4, 4), LlamaNorm(4), GemmaNorm(4), nn.Linear(4, 2))
    assert coverage(model).share == 1.0


def test_what_computes_something_else_has_no_rule() -> None:
    assert find_rule(CentredNorm(4)) is None
