"""EK-FAC factors as additive sums, so that batches, chunks and workers can be added up in any tree.

George, Laurent, Bouthillier, Ballas, Vincent, "Fast Approximate Natural Gradient Descent in a
Kronecker-factored Eigenbasis" (NeurIPS 2018), for the true Fisher of the per-example loss. First pass:
covariances A = E[a aᵀ] and S = E[g gᵀ]; their eigenvectors are the basis. Second pass: Λ = E[(Q_Sᵀ G Q_A)²]
in that basis. Means are over *examples* (and checkpoints), not over batches or positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.attribution.curvature.factor_sums import FactorSums, add_into, check_finite
from pipeline.attribution.curvature.preconditioners import Conditioner
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.conditioned_gradients import ConditionedGradients, condition
from pipeline.attribution.gradients.layer_gradients import Eigenbasis, LayerGradients
from pipeline.attribution.gradients.shared_inputs import SharedInputs
from pipeline.attribution.model.capture import Inputs, capture
from pipeline.attribution.objectives import Objective
from pipeline.attribution.objectives.random_labels import row_uniforms


@dataclass(frozen=True)
class Visited:
    """The gradients of one layer for one batch at one checkpoint; ``fixed``: its inputs come from no covered layer."""

    layer: str
    gradients: LayerGradients | ConditionedGradients
    fixed: bool


def conditioned(
    visited: Iterable[Visited], conditioners: Mapping[str, Conditioner], batch: int
) -> Iterator[Visited]:
    """The gradients as a segment's optimizer sees them; those of layers that it leaves alone are left out."""
    for visit in visited:
        conditioner = conditioners.get(visit.layer)
        if conditioner is None or conditioner.root is None:
            yield visit
        elif not conditioner.frozen:
            assert not isinstance(visit.gradients, ConditionedGradients)
            found = condition(visit.gradients, conditioner.root, batch)
            yield Visited(visit.layer, found, fixed=False)


def fisher_gradients(
    model: nn.Module,
    objective: Objective,
    inputs: Inputs,
    row_ids: Tensor,
    *,
    seed: int,
    checkpoint: int,
    labels: str = "sampled",
    weights: Tensor | None = None,
    given: Tensor | None = None,
) -> Iterator[Visited]:
    """Gradients for curvature at the model's present weights: every layer, once per column of the output Hessian's
    root. Arguments as in ``covariance_sums``.
    """
    scale = None if weights is None else weights.sqrt()
    with capture(model) as captured:
        outputs = captured.forward(inputs)
        fixed = captured.fixed_layers()
        columns = fisher_columns(
            objective, outputs, row_ids, scale, given, labels=labels, seed=seed, checkpoint=checkpoint
        )
        for column in columns:
            for name, gradients in captured.gradients(outputs, column, retain_graph=True):
                yield Visited(name, gradients, name in fixed)


def covariance_sums(
    model: nn.Module,
    objective: Objective,
    inputs: Inputs,
    row_ids: Tensor,
    *,
    seed: int,
    checkpoint: int,
    labels: str = "sampled",
    weights: Tensor | None = None,
    given: Tensor | None = None,
) -> FactorSums:
    """First pass over one batch, the model being loaded with a checkpoint's weights.

    Args:
        inputs: given to the model as they are; the batch comes first.
        row_ids: int64 ``[batch]``, each row's identity, from which its label is drawn.
        seed, checkpoint: the other two things that the drawn labels depend on.
        labels: ``sampled`` draws one label per row from the model, ``exact`` sums over the output
            Hessian's root.
        weights: ``[batch]`` row weights of mean 1, or None; weight w counts like w copies of the row.
        given: the rows' own labels, for objectives whose output Hessian depends on them.

    Raises:
        NonFiniteError: a covariance has a NaN or an infinity; names the layer.
    """
    sums, draw = FactorSums({}, {}, len(row_ids)), {"seed": seed, "checkpoint": checkpoint, "labels": labels}
    visited = fisher_gradients(model, objective, inputs, row_ids, weights=weights, given=given, **draw)  # type: ignore[arg-type]
    add_covariances(sums, visited, weights)
    check_sums(sums)
    return sums


def spectrum_sums(
    model: nn.Module,
    objective: Objective,
    inputs: Inputs,
    row_ids: Tensor,
    bases: Mapping[str, Eigenbasis],
    *,
    seed: int,
    checkpoint: int,
    labels: str = "sampled",
    weights: Tensor | None = None,
    given: Tensor | None = None,
) -> dict[str, Tensor]:
    """Second pass over one batch: layer -> Σ (Q_Sᵀ G Q_A)² ``[out, in]``, float64; arguments as in the first.

    Divide the sum over all batches and checkpoints by ``FactorSums.examples`` for Λ.

    Raises:
        NonFiniteError: the sum has a NaN or an infinity; names the layer.
    """
    sums: dict[str, Tensor] = {}
    draw = {"seed": seed, "checkpoint": checkpoint, "labels": labels}
    visited = fisher_gradients(model, objective, inputs, row_ids, weights=weights, given=given, **draw)  # type: ignore[arg-type]
    add_squares(sums, visited, local_bases(bases, model))
    for name, value in sums.items():
        check_finite(value, name, "spectrum")
    return sums


def add_covariances(
    sums: FactorSums, visited: Iterable[Visited], weights: Tensor | None, shared: SharedInputs | None = None
) -> None:
    """Adds one batch at one checkpoint to ``sums``, in place; not its examples, nor inputs that ``shared`` keeps."""
    scale, seen = None if weights is None else weights.sqrt(), set()
    for visit in visited:
        if isinstance(visit.gradients, ConditionedGradients):
            inputs, outputs = visit.gradients.covariances()
            add_into(sums.input, {visit.layer: inputs})
            add_into(sums.gradient, {visit.layer: outputs})
            continue
        add_into(sums.gradient, {visit.layer: visit.gradients.gradient_covariance()})
        if visit.layer in seen:
            continue
        seen.add(visit.layer)
        if shared is None or not (visit.fixed and shared.counted(visit.layer, visit.gradients)):
            add_into(sums.input, {visit.layer: visit.gradients.input_covariance(scale)})


def add_squares(
    sums: dict[str, Tensor],
    visited: Iterable[Visited],
    bases: Mapping[str, Eigenbasis],
    shared: SharedInputs | None = None,
) -> None:
    """Adds one batch at one checkpoint to ``sums``, in place; not what ``shared`` keeps. ``bases``: local ones."""
    for visit in visited:
        basis = bases[visit.layer]
        gradients = visit.gradients
        if (
            shared is None
            or not visit.fixed
            or isinstance(gradients, ConditionedGradients)
            or not shared.squared(visit.layer, gradients, basis)
        ):
            add_into(sums, {visit.layer: gradients.squares(basis)})


def check_sums(sums: FactorSums) -> None:
    """Raises NonFiniteError for a covariance with a NaN or an infinity."""
    for name, gradient in sums.gradient.items():
        check_finite(sums.input[name], name, "input covariance")
        check_finite(gradient, name, "gradient covariance")


def local_bases(bases: Mapping[str, Eigenbasis], model: nn.Module) -> dict[str, Eigenbasis]:
    """The bases in the precision and on the device of the model's parameters."""
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    return {name: basis.to(like) for name, basis in bases.items()}


def sampled_rows(row_ids: Tensor, *, seed: int, share: float) -> Tensor:
    """bool ``[batch]``: a random ``share`` of all rows, each chosen by its id and the seed alone."""
    # No checkpoint has this number, so the choice is independent of the labels drawn.
    return row_uniforms(row_ids, seed=seed, checkpoint=-1) < share


def fisher_columns(
    objective: Objective,
    outputs: Tensor,
    row_ids: Tensor,
    scale: Tensor | None,
    given: Tensor | None = None,
    *,
    labels: str,
    seed: int,
    checkpoint: int,
) -> list[Tensor]:
    """Output gradients, of the outputs' shape, whose outer products sum, in the mean, to the output Hessian."""
    outputs = outputs.detach()
    if labels == "sampled":
        columns = [
            objective.sampled_output_gradients(
                outputs, row_uniforms(row_ids, seed=seed, checkpoint=checkpoint), given
            )
        ]
    elif labels == "exact":
        columns = objective.exact_output_gradients(outputs, given)
    else:
        raise AttributionError(f"There are no {labels!r} labels.", "Use 'sampled' or 'exact'.")
    if scale is None:
        return columns
    return [column * scale.to(column).reshape(-1, *[1] * (column.dim() - 1)) for column in columns]
