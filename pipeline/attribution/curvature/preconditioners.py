"""Diagonal preconditioners: those of Adam, and of parameter groups with learning rates of their own.

Let P be the diagonal preconditioner of an optimizer: θ_{k+1} = θ_k − η_k P ∇J. Training is then gradient descent in
the coordinates P^{-1/2} θ. In these preconditioned coordinates, a gradient is P^{1/2} ∘ G and the curvature is
M = P^{1/2} H P^{1/2} (arXiv 2405.12186, App. C; Eq. 39). Eigenbases and eigenvalues are fitted on gradients in these
coordinates. For a segment and a query gradient q, the results in parameter space are

    filter of the segment                   P^{1/2} F_r(M) P^{1/2} q
    query gradient of the segment before    P^{-1/2} F_S(M) P^{1/2} q

so query and training gradients themselves stay in parameter space.

Weight decay shrinks a parameter at the rate D per unit of learning rate. D is the weight decay (AdamW, SGD) or the
weight decay times P (Adam with L2 regularisation), times the ratio of the group's learning rate to the largest one. If
D differs between parameters, the part of D that is diagonal in the eigenbasis is added to the curvature: Σ_p D_p v_p²
for an eigenvector v. This is exact if D is the same for all parameters of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.attribution.errors import CheckpointError
from pipeline.attribution.gradients.layer_gradients import Eigenbasis, rotate
from pipeline.attribution.model.coverage import parameter_matrices
from pipeline.attribution.trajectory.optimizers import ParameterGroup
from pipeline.attribution.trajectory.trajectory import Segment, Trajectory


@dataclass(frozen=True)
class Preconditioner:
    """The preconditioner and weight decay of one layer in a segment.

    Attributes:
        root: P^{1/2}, float64 ``[out, in]``, 0 for a frozen parameter; None is 1 for all.
        decay: the part of D that the segment's spectrum doesn't add, float64 ``[out, in]``; None is 0 for all.
    """

    root: Tensor | None
    decay: Tensor | None

    @property
    def frozen(self) -> bool:
        """Whether the whole layer is frozen in the segment."""
        return self.root is not None and not bool(self.root.any())

    def to(self, like: Tensor) -> Preconditioner:
        """Returns the same preconditioner in the dtype and on the device of ``like``."""
        root, decay = (None if each is None else each.to(like) for each in (self.root, self.decay))
        return Preconditioner(root, decay)

    def preconditioned(self, matrices: Tensor) -> Tensor:
        """Returns P^{1/2} ∘ matrices, for matrices ``[..., out, in]``."""
        return matrices if self.root is None else matrices * self.root.to(matrices)

    def passed(self, before: Tensor, moved: Tensor) -> Tensor:
        """Returns P^{-1/2} ∘ ``moved``, with the entries of ``before`` for frozen parameters.

        The effect of a frozen parameter on the trained parameters of its own layer is neglected.

        Args:
            before: ``[..., out, in]`` in parameter space.
            moved: ``[..., out, in]`` in preconditioned coordinates.
        """
        if self.root is None:
            return moved
        root = self.root.to(moved)
        return torch.where(root > 0, moved / root.clamp(min=torch.finfo(root.dtype).tiny), before)

    def of_columns(self, columns: Tensor) -> Preconditioner:
        """Returns the preconditioner of some columns of the matrix, for columns given as rows ``[columns, out]``.

        The result has no decay.

        Args:
            columns: int64 ``[columns]``, the places of the columns.
        """
        return Preconditioner(None if self.root is None else self.root.T[columns], None)

    def decay_in(self, basis: Eigenbasis) -> Tensor | float:
        """Returns the part of D that is diagonal in the eigenbasis, ``[out, in]``; 0.0 if there is no D."""
        if self.decay is None:
            return 0.0
        squared = Eigenbasis(
            None if basis.input is None else basis.input.square(),
            basis.gradient if basis.gradient.dim() == 1 else basis.gradient.square(),
        )
        return rotate(self.decay.to(basis.gradient), squared)


def segment_preconditioners(
    model: nn.Module, trajectory: Trajectory, segment: Segment, *, preconditioned: bool = True
) -> dict[str, Preconditioner]:
    """Returns layer -> its preconditioner in a segment. Layers under plain gradient descent have none.

    Args:
        model: the model.
        trajectory: the trajectory that the segment belongs to.
        segment: the segment. Adam's v̂ is averaged over its checkpoints.
        preconditioned: False treats Adam as gradient descent, with P = 1. This is wrong, and is meant for comparisons.

    Raises:
        CheckpointError: a checkpoint has no state of Adam, or one that doesn't fit the model.
    """
    settings = trajectory.stages[segment.stage].optimizer
    adaptive = settings.adaptive and preconditioned
    moments = _mean_moments(trajectory, segment) if adaptive else {}
    squared: dict[str, Tensor] = {}
    decays: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        group, share = _group_of(name, segment, settings.groups)
        value = torch.full(parameter.shape, share, dtype=torch.float64)
        decay = value * (group.weight_decay if group else 0.0)
        if adaptive and share:
            scale = _adam_scale(name, parameter, moments, settings.eps)
            value = value * scale
            decay = decay * scale if settings.kind == "adam" else decay
        squared[name], decays[name] = value, decay
    scales, matrices = parameter_matrices(model, squared), parameter_matrices(model, decays)
    found = {}
    for name, scale in scales.items():
        root, decay = scale.sqrt(), matrices[name]
        plain = bool((root == 1).all())
        uniform = bool((decay == segment.weight_decay).all())
        if plain and uniform:
            continue
        if segment.weight_decay:
            # The spectrum adds the segment's weight decay already.
            decay = (decay - segment.weight_decay).clamp(min=0.0)
        found[name] = Preconditioner(None if plain else root, decay if bool(decay.any()) else None)
    return found


def _group_of(
    name: str, segment: Segment, groups: Sequence[ParameterGroup]
) -> tuple[ParameterGroup | None, float]:
    """Returns (the parameter's group, its learning rate as a share of the largest one).

    For a frozen parameter this is (None, 0.0).
    """
    for group, total in zip(groups, segment.group_sums, strict=True):
        if group.parameters is None:
            return group, 1.0
        if name in group.parameters:
            return group, total / segment.lr_sum if segment.lr_sum else 1.0
    return None, 0.0


def _mean_moments(trajectory: Trajectory, segment: Segment) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for checkpoint in segment.checkpoints:
        for name, value in trajectory.load_second_moments(checkpoint).items():
            total[name] = total[name] + value.double() if name in total else value.double()
            counts[name] = counts.get(name, 0) + 1
    return {name: value / counts[name] for name, value in total.items()}


def _adam_scale(name: str, parameter: Tensor, moments: Mapping[str, Tensor], eps: float) -> Tensor:
    """Returns Adam's preconditioner 1/(√v̂ + ε), and 0 for weights that never had a gradient: Adam leaves these."""
    if name not in moments:
        return torch.zeros(parameter.shape, dtype=torch.float64)
    if moments[name].shape != parameter.shape:
        raise CheckpointError(
            f"Adam's second moment of {name!r} has shape {tuple(moments[name].shape)} "
            f"and not the model's {tuple(parameter.shape)}.",
            "Build the model as it was built for training.",
        )
    moment = moments[name]
    return torch.where(moment > 0, 1.0 / (moment.clamp(min=0.0).sqrt() + eps), 0.0)
