from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.attribution import AttributionError, cross_entropy, get_objective, squared_error


def output_hessian(objective, output: Tensor, label: Tensor) -> Tensor:
    return torch.func.hessian(lambda out: objective.losses(out[None], label[None])[0])(output)


CASES = [
    pytest.param(cross_entropy(), torch.tensor(1), id="cross entropy"),
    pytest.param(squared_error(), torch.tensor([0.3, -1.0, 2.0]).double(), id="squared error"),
]


@pytest.mark.parametrize(("objective", "label"), CASES)
def test_exact_columns_are_a_root_of_the_output_hessian(objective, label: Tensor) -> None:
    output = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    root = torch.cat(objective.exact_output_gradients(output[None]))
    torch.testing.assert_close(root.T @ root, output_hessian(objective, output, label))


@pytest.mark.parametrize(("objective", "label"), CASES)
def test_sampled_gradients_have_mean_zero_and_the_output_hessian_as_covariance(
    objective, label: Tensor
) -> None:
    output = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    uniforms = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    sampled = objective.sampled_output_gradients(output.expand(20_000, 3), uniforms)
    torch.testing.assert_close(sampled.mean(0), torch.zeros(3).double(), atol=0.03, rtol=0)
    covariance = sampled.T @ sampled / len(sampled)
    torch.testing.assert_close(covariance, output_hessian(objective, output, label), atol=0.06, rtol=0)


def test_extreme_uniforms_and_logits_give_a_class_of_the_model() -> None:
    outputs = torch.tensor([[1000.0, 0.0, -1000.0], [-1000.0, 0.0, 1000.0]])
    for uniform in (0.0, 1.0 - 2.0**-53):
        sampled = cross_entropy().sampled_output_gradients(
            outputs, torch.full((2,), uniform, dtype=torch.float64)
        )
        assert torch.equal(sampled, torch.zeros_like(sampled))  # the certain class was drawn


def test_margin_is_label_logit_minus_best_other() -> None:
    outputs = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    margins = cross_entropy().margins(outputs, torch.tensor([0, 1]))
    assert margins is not None
    assert margins.tolist() == [1.0, -2.0]
    assert squared_error().margins(outputs, outputs) is None


def test_squared_error_sums_over_outputs_and_takes_flat_labels() -> None:
    losses = squared_error().losses(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    assert losses.tolist() == [5.0]
    losses = squared_error().losses(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0]))
    assert losses.tolist() == [1.0, 4.0]


def test_labels_that_dont_fit_and_unknown_losses_are_errors() -> None:
    with pytest.raises(AttributionError, match="labels"):
        squared_error().losses(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(AttributionError, match="'hinge'"):
        get_objective("hinge")
