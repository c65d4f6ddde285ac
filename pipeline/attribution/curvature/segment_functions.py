"""Functions of a Hessian's eigenvalues σ, by which training data attribution methods differ.

SOURCE (arXiv 2405.12186) injects a training gradient with F_r(σ) = (1 − exp(−tσ)) / σ, Eq. 21, and carries it
across a later segment with F_S(σ) = exp(−tσ), Eq. 16, where t is the sum of a segment's effective learning
rates. Influence functions inject with 1/(σ + damping) and carry nothing. Without curvature F_r is a number.
Coupled weight decay adds to every σ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

# Mean-relative damping that kronfluence and the influence function literature use by default.
RELATIVE_DAMPING = 0.1


@dataclass(frozen=True)
class Spectrum:
    """What a segment does to a direction with eigenvalue σ.

    Attributes:
        injection: σ ``[out, in]`` of one layer -> factor of the same shape, for gradients that enter here.
        transport: σ ``[out, in]`` of one layer -> factor of the same shape, for what passes through.
    """

    injection: Callable[[Tensor], Tensor]
    transport: Callable[[Tensor], Tensor]


def source_spectrum(lr_sum: float, weight_decay: float = 0.0) -> Spectrum:
    """The spectrum of a SOURCE segment. ``lr_sum`` is the sum of its effective learning rates."""
    return Spectrum(
        partial(source_injection, lr_sum=lr_sum, weight_decay=weight_decay),
        partial(source_transport, lr_sum=lr_sum, weight_decay=weight_decay),
    )


def influence_spectrum(damping: float | None = None) -> Spectrum:
    """The spectrum of influence functions; ``damping`` None means a tenth of each layer's mean eigenvalue."""
    return Spectrum(partial(influence_injection, damping=damping), torch.ones_like)


def flat_spectrum(lr_sum: float) -> Spectrum:
    """The spectrum of training on a loss without curvature: TracIn's and the plain dot product's."""
    return Spectrum(partial(torch.full_like, fill_value=lr_sum), torch.ones_like)


def source_injection(sigma: Tensor, lr_sum: float, weight_decay: float = 0.0) -> Tensor:
    """F_r of Eq. 21: (1 − exp(−tσ)) / σ, and t at σ = 0. Tiny negative σ (rounding) count as 0."""
    exponent = lr_sum * (sigma.clamp(min=0.0) + weight_decay)
    # At the smallest normal number the quotient is exactly 1, its limit at 0.
    exponent = exponent.clamp(min=torch.finfo(sigma.dtype).tiny)
    return lr_sum * (-torch.expm1(-exponent) / exponent)


def source_transport(sigma: Tensor, lr_sum: float, weight_decay: float = 0.0) -> Tensor:
    """F_S of Eq. 16: exp(−tσ). Tiny negative σ (rounding) count as 0."""
    return torch.exp(-lr_sum * (sigma.clamp(min=0.0) + weight_decay))


def influence_injection(sigma: Tensor, damping: float | None = None) -> Tensor:
    """1 / (σ + damping); ``damping`` None means a tenth of the mean of ``sigma``."""
    positive = sigma.clamp(min=0.0)
    shift = RELATIVE_DAMPING * positive.mean() if damping is None else damping
    # A layer without any curvature has no gradients either: keep the factor finite.
    return 1.0 / (positive + shift).clamp(min=torch.finfo(sigma.dtype).tiny)
