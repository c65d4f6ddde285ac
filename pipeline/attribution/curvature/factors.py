"""EK-FAC factors as sums that can be added in any order: over batches, chunks and workers.

The method is that of George, Laurent, Bouthillier, Ballas, Vincent, "Fast Approximate Natural Gradient Descent in a
Kronecker-factored Eigenbasis" (NeurIPS 2018), with the true Fisher information of the per-example loss. The first pass
sums the covariances A = E[a aᵀ] and S = E[g gᵀ]; their eigenvectors are the eigenbasis. The second pass sums the
corrected eigenvalues Λ = E[(Q_Sᵀ G Q_A)²] in that basis. Means are over *examples* (and checkpoints), not over batches
or positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.attribution.curvature.factor_sums import FactorSums, add_into, check_finite
from pipeline.attribution.curvature.preconditioners import Preconditioner
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.layer_gradients import Eigenbasis, LayerGradients
from pipeline.attribution.gradients.preconditioned_gradients import PreconditionedGradients, precondition
from pipeline.attribution.gradients.shared_inputs import SharedInputs
from pipeline.attribution.model.calls import Inputs
from pipeline.attribution.model.capture import capture
from pipeline.attribution.objectives import Objective
from pipeline.attribution.objectives.random_labels import row_uniforms
from pipeline.attribution.options import WIDEST_OUTPUTS


@dataclass(frozen=True)
class Visited:
    """The gradients of one layer for one batch at one checkpoint.

    Attributes:
        layer: the layer's name.
        gradients: the per-example gradients.
        fixed: whether the layer's inputs depend on no covered layer, so that they are likely the same at all
            checkpoints.
    """

    layer: str
    gradients: LayerGradients | PreconditionedGradients
    fixed: bool


def preconditioned(
    visited: Iterable[Visited], preconditioners: Mapping[str, Preconditioner], batch: int
) -> Iterator[Visited]:
    """Yields the gradients preconditioned as in a segment of training.

    Gradients of layers that are frozen in the segment are left out.

    Args:
        visited: the gradients of a batch.
        preconditioners: layer -> its preconditioner; a layer without one isn't changed.
        batch: the number of examples.
    """
    for visit in visited:
        preconditioner = preconditioners.get(visit.layer)
        if preconditioner is None or preconditioner.root is None:
            yield visit
        elif not preconditioner.frozen:
            assert not isinstance(visit.gradients, PreconditionedGradients)
            found = precondition(visit.gradients, preconditioner.root, batch)
            yield Visited(visit.layer, found, fixed=False)


def fisher_gradients(
    model: nn.Module,
    objective: Objective,
    inputs: Inputs,
    row_ids: Tensor,
    *,
    seed: int,
    checkpoint: int,
    fisher: str = "mc",
    weights: Tensor | None = None,
    given: Tensor | None = None,
) -> Iterator[Visited]:
    """Yields the gradients that the Fisher information at the model's present weights is estimated from.

    Every layer comes once per column of the root of the output Hessian: once with ``fisher="mc"``. The arguments are
    those of ``covariance_sums``.
    """
    scale = None if weights is None else weights.sqrt()
    with capture(model) as captured:
        outputs = captured.forward(inputs)
        fixed = captured.fixed_layers()
        columns = _fisher_columns(
            objective, outputs, row_ids, scale, given, fisher=fisher, seed=seed, checkpoint=checkpoint
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
    fisher: str = "mc",
    weights: Tensor | None = None,
    given: Tensor | None = None,
    widest_outputs: int = WIDEST_OUTPUTS,
) -> FactorSums:
    """The first pass over one batch: the covariance sums at the model's present weights.

    Args:
        model: the model with the weights of a checkpoint.
        objective: the training objective.
        inputs: the model's inputs; the batch is the first dimension.
        row_ids: int64 ``[batch]``, the identity of each row. The labels drawn depend on it, ``seed`` and
            ``checkpoint`` alone.
        seed: the seed of the labels drawn.
        checkpoint: the checkpoint's place in the trajectory.
        fisher: how the Fisher information is estimated. ``mc`` draws one label per row from the model
            (Monte-Carlo); ``exact`` sums over all columns of the root of the output Hessian.
        weights: ``[batch]`` row weights of mean 1, or None. A weight w counts like w copies of the row.
        given: the rows' own labels, for objectives whose output Hessian depends on them.
        widest_outputs: layers with more outputs keep the diagonal of S alone.

    Raises:
        NonFiniteError: a covariance has a NaN or an infinity. The message names the layer.
    """
    sums, draw = FactorSums({}, {}, len(row_ids)), {"seed": seed, "checkpoint": checkpoint, "fisher": fisher}
    visited = fisher_gradients(model, objective, inputs, row_ids, weights=weights, given=given, **draw)  # type: ignore[arg-type]
    add_covariances(sums, visited, weights, widest_outputs=widest_outputs)
    _check_sums(sums)
    return sums


def eigenvalue_sums(
    model: nn.Module,
    objective: Objective,
    inputs: Inputs,
    row_ids: Tensor,
    bases: Mapping[str, Eigenbasis],
    *,
    seed: int,
    checkpoint: int,
    fisher: str = "mc",
    weights: Tensor | None = None,
    given: Tensor | None = None,
) -> dict[str, Tensor]:
    """The second pass over one batch: the squares of the gradients in the eigenbasis.

    The sum over all batches and checkpoints, divided by ``FactorSums.examples``, is Λ.

    Args:
        bases: layer -> eigenbasis, from the first pass.

    The other arguments are those of ``covariance_sums``.

    Returns:
        layer -> Σ (Q_Sᵀ G Q_A)², float64 ``[out, in]``.

    Raises:
        NonFiniteError: the sum has a NaN or an infinity. The message names the layer.
    """
    sums: dict[str, Tensor] = {}
    draw = {"seed": seed, "checkpoint": checkpoint, "fisher": fisher}
    visited = fisher_gradients(model, objective, inputs, row_ids, weights=weights, given=given, **draw)  # type: ignore[arg-type]
    add_squares(sums, visited, local_bases(bases, model))
    for name, value in sums.items():
        check_finite(value, name, "spectrum")
    return sums


def add_covariances(
    sums: FactorSums,
    visited: Iterable[Visited],
    weights: Tensor | None,
    shared: SharedInputs | None = None,
    *,
    widest_outputs: int = WIDEST_OUTPUTS,
) -> None:
    """Adds the covariances of one batch at one checkpoint to ``sums``, in place.

    ``sums.examples`` isn't changed.

    Args:
        sums: the sums to add to.
        visited: the gradients of the batch.
        weights: ``[batch]`` row weights, or None.
        shared: defers the input covariances of layers whose inputs are the same at all checkpoints. None adds all.
        widest_outputs: as in ``covariance_sums``.
    """
    scale, seen = None if weights is None else weights.sqrt(), set()
    for visit in visited:
        if isinstance(visit.gradients, PreconditionedGradients):
            inputs, outputs = visit.gradients.covariances(widest_outputs)
            add_into(sums.input, {visit.layer: inputs})
            add_into(sums.gradient, {visit.layer: outputs})
            continue
        add_into(sums.gradient, {visit.layer: visit.gradients.gradient_covariance(widest_outputs)})
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
    """Adds the squares of one batch at one checkpoint to ``sums``, in place.

    Args:
        sums: layer -> Σ (Q_Sᵀ G Q_A)², the sums to add to.
        visited: the gradients of the batch.
        bases: layer -> eigenbasis, from ``local_bases``.
        shared: defers the squares of layers whose inputs are the same at all checkpoints. None adds all.
    """
    for visit in visited:
        basis = bases[visit.layer]
        gradients = visit.gradients
        if (
            shared is None
            or not visit.fixed
            or isinstance(gradients, PreconditionedGradients)
            or not shared.squared(visit.layer, gradients, basis)
        ):
            add_into(sums, {visit.layer: gradients.squares(basis)})


def _check_sums(sums: FactorSums) -> None:
    """Checks that all covariances are finite.

    Raises:
        NonFiniteError: a covariance has a NaN or an infinity. The message names the layer.
    """
    for name, gradient in sums.gradient.items():
        check_finite(sums.input[name], name, "input covariance")
        check_finite(gradient, name, "gradient covariance")


def local_bases(bases: Mapping[str, Eigenbasis], model: nn.Module) -> dict[str, Eigenbasis]:
    """Returns the bases in the dtype and on the device of the model's parameters."""
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    return {name: basis.to(like) for name, basis in bases.items()}


def sampled_rows(row_ids: Tensor, *, seed: int, share: float) -> Tensor:
    """Returns bool ``[batch]``, which selects a random ``share`` of all rows.

    The choice of a row depends on its id and the seed alone.
    """
    # No checkpoint has the number −1, so the choice is independent of the labels drawn.
    return row_uniforms(row_ids, seed=seed, checkpoint=-1) < share


def _fisher_columns(
    objective: Objective,
    outputs: Tensor,
    row_ids: Tensor,
    scale: Tensor | None,
    given: Tensor | None = None,
    *,
    fisher: str,
    seed: int,
    checkpoint: int,
) -> Iterator[Tensor]:
    """Yields output gradients for which the expected sum of outer products is the output Hessian.

    Args:
        objective: the training objective.
        outputs: the model's outputs; the batch is the first dimension.
        row_ids: int64 ``[batch]``, the identity of each row.
        scale: ``[batch]``, the factor of each row's gradients (the root of its weight); None is 1.
        given: the rows' own labels, or None.
        fisher: ``mc`` for one column with labels drawn from the model, ``exact`` for all columns.
        seed: the seed of the labels drawn.
        checkpoint: the checkpoint's place in the trajectory.

    Yields:
        Tensors of the outputs' shape.

    Raises:
        AttributionError: ``fisher`` has another value.
    """
    outputs = outputs.detach()
    columns: Iterable[Tensor]
    if fisher == "mc":
        uniforms = row_uniforms(row_ids.to(outputs.device), seed=seed, checkpoint=checkpoint)
        columns = [objective.sampled_output_gradients(outputs, uniforms, given)]
    elif fisher == "exact":
        columns = objective.exact_output_gradients(outputs, given)
    else:
        raise AttributionError(f"fisher is {fisher!r}.", "Use 'mc' or 'exact'.")
    for column in columns:
        yield column if scale is None else column * scale.to(column).view(-1, *[1] * (column.dim() - 1))
