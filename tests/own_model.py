"""A model of a user's own, found by its import path."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def build(encoding: Any, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(encoding.input_shapes["dense"][0], width), nn.Tanh(), nn.Linear(width, encoding.outputs)
    )


class Pixels(nn.Module):
    """Grey values from bytes."""

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1).float() / 16


def of_images(width: int) -> nn.Module:
    return nn.Sequential(Pixels(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def with_batchnorm() -> nn.Module:
    return nn.Sequential(Pixels(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


def not_a_module() -> str:
    return "a string"


def nothing_trained() -> nn.Module:
    return nn.Identity()


NUMBER = 5
