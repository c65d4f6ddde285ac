"""Optimizers that scale every parameter by itself: Adam, and groups with learning rates of their own.

With θ_{k+1} = θ_k − η_k P ∇J, P diagonal, training is gradient descent in the coordinates P^{-1/2} θ, in which a
gradient is P^{1/2} ∘ G and curvature M = P^{1/2} H P^{1/2} (arXiv 2405.12186, App. C; Eq. 39). Bases and eigenvalues
are fitted on such gradients. Back in parameter space, a segment with query gradient q has

    filter     P^{1/2} F_r(M) P^{1/2} q
    passes on  P^{-1/2} F_S(M) P^{1/2} q

so that queries and training gradients need no conditioning themselves. Weight decay moves a parameter at a rate D per
unit of learning rate: D = weight decay (AdamW, SGD) or weight decay · P (L2 regularisation under Adam), times the
share that the parameter's group has of the largest learning rate. Where D is not the same for all, the curvature gets
what is diagonal of it in the eigenbasis, Σ_p D_p v_p² for an eigenvector v: exact where D is uniform.
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
class Conditioner:
    """What a segment's optimizer does to one layer besides its learning rate.

    Attributes:
        root: P^{1/2} ``[out, in]``, float64, 0 where the parameter is frozen; None is 1.
        decay: D ``[out, in]``, float64; None is 0.
    """

    root: Tensor | None
    decay: Tensor | None

    @property
    def frozen(self) -> bool:
        """Whether the segment leaves the layer as it is."""
        return self.root is not None and not bool(self.root.any())

    def to(self, like: Tensor) -> Conditioner:
        """The same in the dtype and on the device of ``like``."""
        root, decay = (None if each is None else each.to(like) for each in (self.root, self.decay))
        return Conditioner(root, decay)

    def conditioned(self, matrices: Tensor) -> Tensor:
        """P^{1/2} ∘ matrices ``[..., out, in]``."""
        return matrices if self.root is None else matrices * self.root.to(matrices)

    def passed(self, before: Tensor, moved: Tensor) -> Tensor:
        """P^{-1/2} ∘ ``moved``; frozen parameters keep what was ``before``.

        That a frozen parameter acts on the trained ones of its own layer is neglected.
        """
        if self.root is None:
            return moved
        root = self.root.to(moved)
        return torch.where(root > 0, moved / root.clamp(min=torch.finfo(root.dtype).tiny), before)

    def of_columns(self, columns: Tensor) -> Conditioner:
        """Of matrices' columns at these places, as rows ``[columns, out]``."""
        return Conditioner(None if self.root is None else self.root.T[columns], None)

    def decay_in(self, basis: Eigenbasis) -> Tensor | float:
        """The part of D that is diagonal in the eigenbasis, ``[out, in]``."""
        if self.decay is None:
            return 0.0
        squared = Eigenbasis(
            None if basis.input is None else basis.input.square(),
            basis.gradient if basis.gradient.dim() == 1 else basis.gradient.square(),
        )
        return rotate(self.decay.to(basis.gradient), squared)


def segment_conditioners(
    model: nn.Module, trajectory: Trajectory, segment: Segment, *, conditioned: bool = True
) -> dict[str, Conditioner]:
    """Layer -> its conditioner in a segment of the trajectory; layers of plain gradient descent have none.

    v̂ of Adam is averaged over the segment's checkpoints. With ``conditioned`` False it counts as 1, as if Adam were
    gradient descent: wrong, and there to compare with.

    Raises:
        CheckpointError: a checkpoint has no state of Adam, or one that doesn't fit the model.
    """
    settings = trajectory.stages[segment.stage].optimizer
    adaptive = settings.adaptive and conditioned
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
            # The spectrum adds it already.
            decay = (decay - segment.weight_decay).clamp(min=0.0)
        found[name] = Conditioner(None if plain else root, decay if bool(decay.any()) else None)
    return found


def _group_of(
    name: str, segment: Segment, groups: Sequence[ParameterGroup]
) -> tuple[ParameterGroup | None, float]:
    """A parameter's group and the share of the largest learning rate that it has; 0 where it is frozen."""
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
    """1/(√v̂ + ε); 0 where there never was a gradient, since Adam leaves that alone."""
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
