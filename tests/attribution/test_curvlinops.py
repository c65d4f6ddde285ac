"""EK-FAC by an independent implementation, curvlinops: the exact Fisher's factors and its damped inverse."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import (
    Batch,
    covariance_sums,
    get_objective,
    influence_spectrum,
    prepare_segment,
    query_filters,
)

from .models import model_and_rows
from .oracles import split

curvlinops = pytest.importorskip("curvlinops")

KINDS = ["mlp", "convnet"]
ROWS = 40


def covered(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that curvlinops knows, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}


def theirs(kind: type, model: nn.Module, batch: Batch, loss: str):
    """curvlinops's operator of the sum over rows; weight and bias of a layer are one matrix, as ours are."""
    model = copy.deepcopy(model).eval()
    rules = {"cross_entropy": nn.CrossEntropyLoss, "squared_error": nn.MSELoss}
    return kind(
        model,
        rules[loss](reduction="sum"),
        [value for layer in covered(model).values() for value in layer.parameters()],
        [(part.inputs, part.labels) for part in split(batch, 16)],
        fisher_type="type-2",
        separate_weight_and_bias=False,
        check_deterministic=False,
        num_per_example_loss_terms=1,
    )


def model_and_labels(kind: str, loss: str) -> tuple[nn.Module, Batch]:
    model, batch = model_and_rows(kind, rows=ROWS)
    if loss == "squared_error":
        batch = Batch(batch.inputs, torch.randn(ROWS, 3, dtype=torch.float64), batch.row_ids)
    return model, batch


def positions(model: nn.Module, batch: Batch) -> dict[str, int]:
    """In how many places each layer is used for a row."""
    counts: dict[str, int] = {}
    handles = [
        layer.register_forward_hook(
            lambda _, __, output, name=name: counts.update({name: output[0, 0].numel()})
        )
        for name, layer in covered(model).items()
    ]
    model(batch.inputs)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("kind", KINDS)
def test_covariances_agree(kind: str, loss: str) -> None:
    model, batch = model_and_labels(kind, loss)
    operator = theirs(curvlinops.KFACLinearOperator, model, batch, loss)
    operator.compute_kronecker_factors()
    found = operator.state_dict()
    sums = covariance_sums(
        model, get_objective(loss), batch.inputs, batch.row_ids, seed=0, checkpoint=0, fisher="exact"
    )
    counts = positions(copy.deepcopy(model).eval(), batch)
    assert found["input_covariances"].keys() == counts.keys()
    for name, count in counts.items():
        # Theirs is a mean over the places of a kernel, too.
        expected = found["input_covariances"][name] * ROWS * count
        torch.testing.assert_close(sums.input[name], expected)
        torch.testing.assert_close(sums.gradient[name], found["gradient_covariances"][name])


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("kind", KINDS)
def test_damped_inverses_agree(kind: str, loss: str) -> None:
    model, batch = model_and_labels(kind, loss)
    damping = 1e-2
    operator = theirs(curvlinops.EKFACLinearOperator, model, batch, loss)
    inverse = curvlinops.KFACInverseLinearOperator(operator, ROWS * damping, use_exact_damping=True)

    def stay(_checkpoint: int) -> None:
        pass

    segment = prepare_segment(
        model,
        stay,
        get_objective(loss),
        split(batch, 16),
        (0,),
        influence_spectrum(damping),
        fisher="exact",
    )
    torch.manual_seed(1)
    vectors = [
        torch.randn(5, *value.shape, dtype=torch.float64)
        for layer in covered(model).values()
        for value in layer.parameters()
    ]
    expected = inverse @ [vector.movedim(0, -1) for vector in vectors]
    found = query_filters(matrices(model, vectors), [segment])[0]
    for name, value in matrices(model, [ROWS * part.movedim(-1, 0) for part in expected]).items():
        assert (found[name] - value).abs().max() < 1e-9 * value.abs().max()


def matrices(model: nn.Module, values: list[Tensor]) -> Mapping[str, Tensor]:
    """Layer -> `[vectors, out, in]` of what is given by parameter; the bias is the last column."""
    found, left = {}, iter(values)
    for name, layer in covered(model).items():
        parts = [
            next(left).flatten(2) if value.dim() > 1 else next(left)[..., None]
            for value in layer.parameters()
        ]
        found[name] = torch.cat(parts, 2)
    return found
