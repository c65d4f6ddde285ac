"""Functions of the Hessian's eigenvalues σ. Training data attribution methods differ in these functions.

SOURCE (arXiv 2405.12186) multiplies a training gradient by F_r(σ) = (1 − exp(−tσ)) / σ in the segment where it enters
(Eq. 21), and by F_S(σ) = exp(−tσ) in each later segment (Eq. 16). Here t is the sum of the segment's effective learning
rates. Influence functions use 1/(σ + damping) and 1. Without curvature, F_r is one number and F_S is 1. Weight decay
adds to every σ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

# The default damping of kronfluence and the influence function literature, as a share of a layer's mean eigenvalue.
RELATIVE_DAMPING = 0.1


@dataclass(frozen=True)
class Spectrum:
    """The functions of the eigenvalues σ that a segment of training applies to directions.

    Attributes:
        injection: F_r, from σ ``[out, in]`` of one layer to the factors of gradients that enter in this segment, in
            the same shape.
        transport: F_S, from σ ``[out, in]`` of one layer to the factors of gradients that entered in an earlier
            segment, in the same shape.
    """

    injection: Callable[[Tensor], Tensor]
    transport: Callable[[Tensor], Tensor]


def source_spectrum(lr_sum: float, weight_decay: float = 0.0) -> Spectrum:
    """Returns the spectrum of a SOURCE segment.

    Args:
        lr_sum: t, the sum of the segment's effective learning rates.
        weight_decay: the weight decay, which is added to every eigenvalue.
    """
    return Spectrum(
        partial(source_injection, lr_sum=lr_sum, weight_decay=weight_decay),
        partial(source_transport, lr_sum=lr_sum, weight_decay=weight_decay),
    )


def influence_spectrum(damping: float | None = None) -> Spectrum:
    """Returns the spectrum of influence functions; ``damping`` None is a tenth of each layer's mean eigenvalue."""
    return Spectrum(partial(influence_injection, damping=damping), torch.ones_like)


def flat_spectrum(lr_sum: float) -> Spectrum:
    """Returns the spectrum of training without curvature, as TracIn and the plain dot product assume.

    Args:
        lr_sum: F_r for every direction.
    """
    return Spectrum(partial(torch.full_like, fill_value=lr_sum), torch.ones_like)


def source_injection(sigma: Tensor, lr_sum: float, weight_decay: float = 0.0) -> Tensor:
    """Returns F_r of Eq. 21 (arXiv 2405.12186): (1 − exp(−tσ)) / σ, and t at σ = 0.

    Args:
        sigma: the eigenvalues, of any shape. Negative ones, which come from rounding, count as 0.
        lr_sum: t, the sum of the segment's effective learning rates.
        weight_decay: the weight decay, which is added to every eigenvalue.

    Returns:
        A tensor of the shape of ``sigma``.
    """
    exponent = lr_sum * (sigma.clamp(min=0.0) + weight_decay)
    # At the smallest normal number, the quotient below is exactly 1, which is its limit at 0.
    exponent = exponent.clamp(min=torch.finfo(sigma.dtype).tiny)
    return lr_sum * (-torch.expm1(-exponent) / exponent)


def source_transport(sigma: Tensor, lr_sum: float, weight_decay: float = 0.0) -> Tensor:
    """Returns F_S of Eq. 16 (arXiv 2405.12186): exp(−tσ). The arguments are those of ``source_injection``."""
    return torch.exp(-lr_sum * (sigma.clamp(min=0.0) + weight_decay))


def influence_injection(sigma: Tensor, damping: float | None = None) -> Tensor:
    """Returns 1 / (σ + damping).

    Args:
        sigma: the eigenvalues of one layer. Negative ones, which come from rounding, count as 0.
        damping: the damping; None is a tenth of the mean of ``sigma``.

    Returns:
        A tensor of the shape of ``sigma``.
    """
    positive = sigma.clamp(min=0.0)
    shift = RELATIVE_DAMPING * positive.mean() if damping is None else damping
    # A layer without any curvature has no gradients either, so any finite factor will do.
    return 1.0 / (positive + shift).clamp(min=torch.finfo(sigma.dtype).tiny)
