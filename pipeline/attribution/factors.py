"""EK-FAC factors as additive sums, so that batches, chunks and workers can be added up in any tree.

George, Laurent, Bouthillier, Ballas, Vincent, "Fast Approximate Natural Gradient Descent in a
Kronecker-factored Eigenbasis" (NeurIPS 2018), for the true Fisher of the per-example loss. First pass:
covariances A = E[a aᵀ] and S = E[g gᵀ]; their eigenvectors are the basis. Second pass: Λ = E[(Q_Sᵀ G Q_A)²]
in that basis. Means are over *examples* (and checkpoints), not over batches or positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.attribution.capture import Inputs, capture
from pipeline.attribution.errors import AttributionError, NonFiniteError
from pipeline.attribution.gradients import Eigenbasis
from pipeline.attribution.objectives import Objective
from pipeline.attribution.random_labels import row_uniforms


@dataclass(frozen=True)
class FactorSums:
    """Covariance sums of the covered layers; ``a + b`` adds two.

    Attributes:
        input: layer -> Σ a aᵀ ``[in, in]``, or its diagonal ``[in]`` where inputs are one-hot; float64.
        gradient: layer -> Σ g gᵀ ``[out, out]``, float64.
        examples: how many examples were summed, an example counting once per checkpoint.
    """

    input: dict[str, Tensor]
    gradient: dict[str, Tensor]
    examples: int

    def __add__(self, other: FactorSums) -> FactorSums:
        return FactorSums(
            add_tensors(self.input, other.input),
            add_tensors(self.gradient, other.gradient),
            self.examples + other.examples,
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat dictionary for safetensors."""
        tensors = {f"input/{name}": value for name, value in self.input.items()}
        tensors |= {f"gradient/{name}": value for name, value in self.gradient.items()}
        return tensors | {"examples": torch.tensor(self.examples)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> FactorSums:
        """The inverse of ``to_tensors``."""
        return cls(_under("input/", tensors), _under("gradient/", tensors), int(tensors["examples"]))


def add_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums by key; a key that only one side has keeps its value."""
    total = dict(first)
    for name, value in second.items():
        total[name] = total[name] + value if name in total else value
    return total


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
) -> FactorSums:
    """First pass over one batch, the model being loaded with a checkpoint's weights.

    Args:
        inputs: given to the model as they are; the batch comes first.
        row_ids: int64 ``[batch]``, each row's identity, from which its label is drawn.
        seed, checkpoint: the other two things that the drawn labels depend on.
        labels: ``sampled`` draws one label per row from the model, ``exact`` sums over the output
            Hessian's root.
        weights: ``[batch]`` row weights of mean 1, or None; weight w counts like w copies of the row.

    Raises:
        NonFiniteError: a covariance has a NaN or an infinity; names the layer.
    """
    input_sums: dict[str, Tensor] = {}
    gradient_sums: dict[str, Tensor] = {}
    scale = None if weights is None else weights.sqrt()
    with capture(model) as captured:
        outputs = captured.forward(inputs)
        columns = fisher_columns(
            objective, outputs, row_ids, scale, labels=labels, seed=seed, checkpoint=checkpoint
        )
        for column in columns:
            for name, gradients in captured.gradients(outputs, column, retain_graph=True):
                if name not in input_sums:
                    input_sums[name] = gradients.input_covariance(scale)
                gradient_sums = add_tensors(gradient_sums, {name: gradients.gradient_covariance()})
    for name in input_sums:
        _check_finite(input_sums[name], name, "input covariance")
        _check_finite(gradient_sums[name], name, "gradient covariance")
    return FactorSums(input_sums, gradient_sums, len(row_ids))


def eigenbases(sums: FactorSums) -> dict[str, Eigenbasis]:
    """Eigenvectors of the mean covariances, layer by layer, in float64.

    Raises:
        NonFiniteError: a covariance has a NaN or an infinity; names the layer.
        AttributionError: no examples were summed.
    """
    if sums.examples == 0:
        raise AttributionError("The factors hold no examples.", "Give at least one batch of training rows.")
    bases = {}
    for name, gradient in sums.gradient.items():
        covariance = sums.input[name]
        inputs = None if covariance.dim() == 1 else _eigenvectors(covariance, name, "input covariance")
        bases[name] = Eigenbasis(inputs, _eigenvectors(gradient, name, "gradient covariance"))
    return bases


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
) -> dict[str, Tensor]:
    """Second pass over one batch: layer -> Σ (Q_Sᵀ G Q_A)² ``[out, in]``, float64; arguments as in the first.

    Divide the sum over all batches and checkpoints by ``FactorSums.examples`` for Λ.

    Raises:
        NonFiniteError: the sum has a NaN or an infinity; names the layer.
    """
    sums: dict[str, Tensor] = {}
    scale = None if weights is None else weights.sqrt()
    with capture(model) as captured:
        outputs = captured.forward(inputs)
        local = {name: basis.to(outputs) for name, basis in bases.items()}
        columns = fisher_columns(
            objective, outputs, row_ids, scale, labels=labels, seed=seed, checkpoint=checkpoint
        )
        for column in columns:
            for name, gradients in captured.gradients(outputs, column, retain_graph=True):
                sums = add_tensors(sums, {name: gradients.squares(local[name])})
    for name, value in sums.items():
        _check_finite(value, name, "spectrum")
    return sums


def fisher_columns(
    objective: Objective,
    outputs: Tensor,
    row_ids: Tensor,
    scale: Tensor | None,
    *,
    labels: str,
    seed: int,
    checkpoint: int,
) -> list[Tensor]:
    """Output gradients ``[batch, outputs]`` whose outer products sum, in the mean, to the output Hessian."""
    if labels == "sampled":
        columns = [
            objective.sampled_output_gradients(
                outputs, row_uniforms(row_ids, seed=seed, checkpoint=checkpoint)
            )
        ]
    elif labels == "exact":
        columns = objective.exact_output_gradients(outputs)
    else:
        raise AttributionError(f"There are no {labels!r} labels.", "Use 'sampled' or 'exact'.")
    if scale is None:
        return columns
    return [column * scale[:, None].to(column) for column in columns]


def eigenbases_to_tensors(bases: Mapping[str, Eigenbasis]) -> dict[str, Tensor]:
    """A flat dictionary for safetensors."""
    tensors = {f"gradient/{name}": basis.gradient for name, basis in bases.items()}
    return tensors | {
        f"input/{name}": basis.input for name, basis in bases.items() if basis.input is not None
    }


def eigenbases_from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Eigenbasis]:
    """The inverse of ``eigenbases_to_tensors``."""
    inputs = _under("input/", tensors)
    return {name: Eigenbasis(inputs.get(name), value) for name, value in _under("gradient/", tensors).items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _eigenvectors(covariance: Tensor, layer: str, what: str) -> Tensor:
    _check_finite(covariance, layer, what)
    symmetric = (covariance + covariance.T).double() / 2
    return torch.linalg.eigh(symmetric).eigenvectors


def _check_finite(value: Tensor, layer: str, what: str) -> None:
    if not torch.isfinite(value).all():
        raise NonFiniteError(
            f"The {what} of layer {layer!r} has a NaN or an infinity.",
            "Look for NaN in the data and for a training run that diverged.",
        )
