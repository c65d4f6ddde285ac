"""The scale and shift of LayerNorm, and the scale of RMSNorm; both covariances of the blocks are diagonal.

Libraries of language models have RMSNorm classes of their own (``LlamaRMSNorm``, ``T5LayerNorm``). They are known by
what they compute.
"""

from __future__ import annotations

from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.gradients.diagonal_gradients import DiagonalGradients, affine_gradients
from pipeline.attribution.layers import ModuleRule, register, register_look_alikes


@register(nn.LayerNorm)
class LayerNormRule(ModuleRule):
    kind = "layer_norm"
    diagonal_input = True
    diagonal_gradient = True
    takes_positions = True

    def weight_shape(self, module: nn.LayerNorm | nn.RMSNorm) -> tuple[int, int]:
        return prod(module.normalized_shape), 1

    def normalised(self, module: nn.LayerNorm, inputs: Tensor) -> Tensor:
        """Returns the normalised inputs, before scale and shift, in the shape of ``inputs``."""
        return functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)

    def weight_gradients(
        self, module: nn.LayerNorm, inputs: Tensor, output_gradients: Tensor, bias: bool
    ) -> DiagonalGradients:
        """``inputs`` and ``output_gradients`` are ``[batch, …, *normalized_shape]``.

        The dimensions between the batch and ``normalized_shape`` are positions.
        """
        size = prod(module.normalized_shape)
        return position_gradients(self.normalised(module, inputs), output_gradients, size, bias)


def position_gradients(
    normalised: Tensor, output_gradients: Tensor, size: int, bias: bool
) -> DiagonalGradients:
    """Returns the gradients of scale and shift, summed over positions.

    Args:
        normalised: ``[batch, …, *shape]``, the inputs before scale and shift.
        output_gradients: of the same shape.
        size: the number of values in ``shape``.
        bias: whether a shift is trained.
    """
    shape = (len(normalised), prod(normalised.shape[1:]) // size, size)
    return affine_gradients(normalised.reshape(shape).mT, output_gradients.reshape(shape).mT, bias)


@register(nn.RMSNorm)
class RMSNormRule(LayerNormRule):
    kind = "rms_norm"

    def normalised(self, module: nn.RMSNorm, inputs: Tensor) -> Tensor:  # type: ignore[override]
        return functional.rms_norm(inputs, module.normalized_shape, eps=module.eps)


_EPSILONS = ("variance_epsilon", "eps", "epsilon")
_KNOWN: WeakKeyDictionary[type[nn.Module], bool] = WeakKeyDictionary()


def is_rms_norm(module: nn.Module) -> bool:
    """Returns whether a module of a foreign type computes an RMSNorm, tried once for each type.

    It does if its only parameter is a vector ``weight``, and its output for random inputs is x̂ · weight or
    x̂ · (1 + weight), where x̂ = x / √(mean x² + ε).
    """
    kind = type(module)
    if kind.__module__.startswith("torch.nn."):
        return False
    if kind not in _KNOWN:
        _KNOWN[kind] = _computes_rms_norm(module)
    return _KNOWN[kind]


def _computes_rms_norm(module: nn.Module) -> bool:
    if [name for name, _ in module.named_parameters()] != ["weight"] or _epsilon(module) is None:
        return False
    weight = module._parameters["weight"]
    if weight is None or weight.dim() != 1 or weight.is_meta:
        return False
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 3, len(weight), generator=generator).to(weight)
    try:
        with torch.no_grad():
            outputs = _forward(module, inputs)
    except Exception:  # whatever a foreign module raises for such inputs: then it is something else
        return False
    normalised = functional.rms_norm(inputs, weight.shape, eps=_epsilon(module))
    expected = (normalised * weight, normalised * (1 + weight))
    return isinstance(outputs, Tensor) and any(
        torch.allclose(outputs, e, rtol=1e-2, atol=1e-3) for e in expected
    )


def _forward(module: nn.Module, inputs: Tensor) -> Any:
    """Calls the forward of the module's type, past all hooks."""
    return type(module).forward(module, inputs)


def _epsilon(module: nn.Module) -> float | None:
    found = (getattr(module, name, None) for name in _EPSILONS)
    return next((float(each) for each in found if isinstance(each, float)), None)


@register_look_alikes(is_rms_norm)
class LookAlikeRMSNormRule(RMSNormRule):
    """An RMSNorm of another library. The gradient of its weight is x̂ · g, whether 1 is added to the weight or not."""

    def weight_shape(self, module: Any) -> tuple[int, int]:
        return len(module.weight), 1

    def normalised(self, module: Any, inputs: Tensor) -> Tensor:
        return functional.rms_norm(inputs, module.weight.shape, eps=_epsilon(module))

    def weight_gradients(
        self, module: Any, inputs: Tensor, output_gradients: Tensor, bias: bool
    ) -> DiagonalGradients:
        return position_gradients(self.normalised(module, inputs), output_gradients, len(module.weight), bias)
