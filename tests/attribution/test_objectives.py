from __future__ import annotations

import itertools
import sys

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.attribution import (
    AttributionError,
    Objective,
    binary_cross_entropy,
    cross_entropy,
    get_objective,
    squared_error,
)
from pipeline.attribution.objectives import (
    check_objective,
    gradients_of_drawn_labels,
    no_exact_gradients,
    no_margins,
    signed_columns,
)
from pipeline.attribution.objectives.output_hessians import hessian_forms, hessian_products

CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 1.3], dtype=torch.float64)
POINT = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
SEQUENCE = torch.stack([POINT, -POINT, 2 * POINT.flip(0), POINT.roll(1)])
TOKENS = torch.tensor([2, -100, 0, 1])


def output_hessian(objective: Objective, output: Tensor, label: Tensor) -> Tensor:
    """In float64, by automatic differentiation of the loss; `[numbers, numbers]`."""
    numbers = output.numel()
    hessian = torch.func.hessian(lambda out: objective.losses(out[None], label[None])[0])(output)
    return hessian.reshape(numbers, numbers)


def poisson_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.exp() - labels.reshape(outputs.shape) * outputs).sum(1)


def poisson_columns(outputs: Tensor, labels: Tensor | None = None) -> list[Tensor]:  # noqa: ARG001
    return [functional.pad((outputs[:, k : k + 1] / 2).exp(), (k, 2 - k)) for k in range(3)]


OWN = Objective("poisson", poisson_losses, no_margins, signed_columns(poisson_columns), poisson_columns)


def fitted(objective: Objective) -> Objective:
    """To rows with three labels, and with one."""
    assert objective.fit is not None
    return objective.fit([TOKENS[None], torch.tensor([[1, -100]])])


CASES = [
    pytest.param(cross_entropy(), POINT, torch.tensor(1), id="cross-entropy"),
    pytest.param(cross_entropy(label_smoothing=0.2), POINT, torch.tensor(1), id="smoothed"),
    pytest.param(cross_entropy(class_weights=CLASS_WEIGHTS), POINT, torch.tensor(1), id="class weights"),
    pytest.param(
        cross_entropy(class_weights=CLASS_WEIGHTS, label_smoothing=0.3),
        POINT,
        torch.tensor(0),
        id="class weights, smoothed",
    ),
    pytest.param(cross_entropy(), SEQUENCE, TOKENS, id="sequence with padding"),
    pytest.param(
        cross_entropy(class_weights=CLASS_WEIGHTS, label_smoothing=0.3), SEQUENCE, TOKENS, id="all at once"
    ),
    pytest.param(squared_error(), POINT, torch.tensor([0.3, -1.0, 2.0]).double(), id="squared error"),
    pytest.param(binary_cross_entropy(), POINT, torch.tensor([True, False, False]), id="multi-label"),
    pytest.param(
        binary_cross_entropy(label_smoothing=0.2), POINT[:1], torch.tensor(1.0), id="binary, smoothed"
    ),
    pytest.param(OWN, POINT, torch.tensor([1, 0, 4]), id="one's own, by exact columns"),
    pytest.param(cross_entropy(reduction="row_mean"), SEQUENCE, TOKENS, id="mean over the row's tokens"),
    pytest.param(
        fitted(cross_entropy(class_weights=CLASS_WEIGHTS, reduction="mean")),
        SEQUENCE,
        TOKENS,
        id="mean over the batch's tokens",
    ),
    pytest.param(
        squared_error(reduction="mean"), POINT, torch.tensor([0.3, -1.0, 2.0]).double(), id="mean squares"
    ),
    pytest.param(
        binary_cross_entropy(reduction="mean"), POINT, torch.tensor([1, 0, 0]), id="mean over labels"
    ),
]


@pytest.mark.parametrize(("objective", "output", "label"), CASES)
def test_exact_columns_are_a_root_of_the_output_hessian(
    objective: Objective, output: Tensor, label: Tensor
) -> None:
    columns = list(objective.exact_output_gradients(output[None], label[None]))
    root = torch.cat(columns).flatten(1)
    torch.testing.assert_close(root.T @ root, output_hessian(objective, output, label))


@pytest.mark.parametrize(("objective", "output", "label"), CASES)
def test_products_and_forms_of_the_output_hessian_are_those_of_the_matrix(
    objective: Objective, output: Tensor, label: Tensor
) -> None:
    changes = torch.randn(3, 1, *output.shape, generator=torch.Generator().manual_seed(0)).double()
    expected = changes.flatten(1) @ output_hessian(objective, output, label)
    found = hessian_products(objective, output[None], label[None], changes)
    torch.testing.assert_close(found.flatten(1), expected)
    forms = hessian_forms(objective, output[None], label[None], changes)
    torch.testing.assert_close(forms[:, 0], (changes.flatten(1) * expected).sum(1))


@pytest.mark.parametrize("slice_bytes", [1, 400])
def test_slices_of_rows_and_tokens_change_no_number_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, slice_bytes: int
) -> None:
    outputs = torch.stack([SEQUENCE, SEQUENCE.flip(0), SEQUENCE.roll(1, 0)])
    labels = torch.stack([TOKENS, TOKENS.flip(0), TOKENS])
    objective, uniforms = cross_entropy(class_weights=CLASS_WEIGHTS), torch.tensor([0.2, 0.7, 0.4]).double()
    changes = torch.randn(2, *outputs.shape, generator=torch.Generator().manual_seed(0)).double()

    def found() -> list[Tensor]:
        return [
            objective.sampled_output_gradients(outputs, uniforms, labels),
            hessian_products(objective, outputs, labels, changes),
        ]

    whole = found()
    module = sys.modules["pipeline.attribution.objectives.cross_entropy"]  # the function has the same name
    monkeypatch.setattr(module, "_SLICE_BYTES", slice_bytes)
    torch.testing.assert_close(found(), whole, rtol=1e-14, atol=1e-15)


def test_another_label_than_torchs_can_be_ignored() -> None:
    outputs, labels = torch.stack([SEQUENCE, SEQUENCE]), torch.stack([TOKENS, TOKENS.flip(0)])
    changed = labels.masked_fill(labels == -100, -7)
    for reduction in ("sum", "row_mean"):
        found = cross_entropy(ignore_index=-7, reduction=reduction).losses(outputs, changed)
        torch.testing.assert_close(found, cross_entropy(reduction=reduction).losses(outputs, labels))
    assert cross_entropy(ignore_index=-7).unknown_labels(torch.tensor([-7, -100, 2]), 3).tolist() == [-100]


@pytest.mark.parametrize(("objective", "output", "label"), CASES)
def test_sampled_gradients_have_mean_zero_and_the_output_hessian_as_covariance(
    objective: Objective, output: Tensor, label: Tensor
) -> None:
    draws = 20_000
    uniforms = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    sampled = objective.sampled_output_gradients(
        output.expand(draws, *output.shape), uniforms, label.expand(draws, *label.shape)
    ).flatten(1)
    hessian = output_hessian(objective, output, label)
    size = float(hessian.diagonal().max())
    torch.testing.assert_close(sampled.mean(0), torch.zeros_like(sampled[0]), atol=0.03 * size**0.5, rtol=0)
    torch.testing.assert_close(sampled.T @ sampled / draws, hessian, atol=0.03 * size, rtol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_losses_of_classes_are_torchs(smoothing: float) -> None:
    objective = cross_entropy(class_weights=CLASS_WEIGHTS, label_smoothing=smoothing)
    outputs, labels = SEQUENCE, torch.tensor([0, 2, 1, 1])
    target = (1 - smoothing) * functional.one_hot(labels, 3).double() + smoothing / 3
    expected = -(CLASS_WEIGHTS * target * outputs.log_softmax(1)).sum(1)
    torch.testing.assert_close(objective.losses(outputs, labels), expected)


def test_a_sequences_loss_is_the_sum_over_its_tokens_without_padding() -> None:
    outputs = torch.stack([SEQUENCE, SEQUENCE.flip(0)])
    labels = torch.tensor([[0, 1, -100, -100], [2, 2, 2, 2]])
    rows = [
        sum(-outputs[row, token].log_softmax(0)[labels[row, token]] for token in range(count))
        for row, count in ((0, 2), (1, 4))
    ]
    torch.testing.assert_close(cross_entropy().losses(outputs, labels), torch.stack(rows))
    for columns in (
        [cross_entropy().sampled_output_gradients(outputs, torch.tensor([0.2, 0.7]).double(), labels)],
        cross_entropy().exact_output_gradients(outputs, labels),
    ):
        assert all(column[0, 2:].abs().max() == 0 for column in columns)
    assert cross_entropy().margins(outputs, labels) is None


def test_tokens_of_a_sequence_are_drawn_independently() -> None:
    outputs, rows = torch.zeros(4000, 2, 2).double(), torch.arange(4000)
    uniforms = (rows.double() + 0.5) / 4000
    sampled = cross_entropy().sampled_output_gradients(outputs, uniforms, torch.zeros(4000, 2).long())
    first, second = sampled[:, 0, 0], sampled[:, 1, 0]
    assert abs(float((first * second).mean())) < 0.02  # of ± 1/2 each: three standard errors


def test_multi_label_losses_and_margins() -> None:
    outputs, labels = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([[1, 0], [1, 0]])
    chances = outputs.sigmoid()
    expected = -torch.where(labels == 1, chances, 1 - chances).log().sum(1)
    torch.testing.assert_close(binary_cross_entropy().losses(outputs, labels), expected)
    margins = binary_cross_entropy().margins(outputs, labels)
    assert margins is not None
    assert margins.tolist() == [1.0, -3.0]
    smoothed = binary_cross_entropy(label_smoothing=0.4).losses(outputs, labels)
    softened = binary_cross_entropy().losses(outputs, 0.6 * labels + 0.2)
    torch.testing.assert_close(smoothed, softened)


def test_drawn_labels_of_ones_own_give_the_fisher_information() -> None:
    """Bernoulli: both outcomes of a label, enumerated with their chances, against the Hessian."""
    entropy = binary_cross_entropy()

    def draw(outputs: Tensor, uniforms: Tensor) -> Tensor:
        return (uniforms[:, None] < outputs.sigmoid()).double()

    sampled = gradients_of_drawn_labels(entropy.losses, draw)
    own = Objective("own", entropy.losses, no_margins, sampled, no_exact_gradients)
    output = torch.tensor([[0.8]], dtype=torch.float64)
    chance = output.sigmoid().item()
    yes, no = (own.sampled_output_gradients(output, torch.tensor([u]).double()) for u in (0.0, 1 - 2.0**-53))
    covariance = chance * yes.square() + (1 - chance) * no.square()
    assert (chance * yes + (1 - chance) * no).item() == pytest.approx(0)
    torch.testing.assert_close(covariance, output_hessian(own, output[0], torch.tensor(1.0)))
    with pytest.raises(AttributionError, match="no exact output gradients"):
        own.exact_output_gradients(output)


@pytest.mark.parametrize("label", itertools.product([0, 1], repeat=2))
def test_the_multi_label_hessian_depends_on_no_label(label: tuple[int, int]) -> None:
    hessian = output_hessian(binary_cross_entropy(), POINT[:2], torch.tensor(label))
    chances = POINT[:2].sigmoid()
    torch.testing.assert_close(hessian, torch.diag(chances * (1 - chances)))


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


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda: squared_error().losses(torch.zeros(4, 2), torch.zeros(4)), "labels"),
        (lambda: binary_cross_entropy().losses(torch.zeros(4, 2), torch.zeros(4)), r"labels \(4,\)"),
        (lambda: binary_cross_entropy().losses(torch.zeros(2, 1), torch.tensor([1, 2])), "A label is 2"),
        (
            lambda: binary_cross_entropy().losses(torch.zeros(2, 1), torch.tensor([1, -0.5])),
            r"A label is -0\.5",
        ),
        (lambda: cross_entropy().losses(torch.zeros(4, 2), torch.zeros(4, 2).long()), r"labels \(4, 2\)"),
        (
            lambda: cross_entropy(class_weights=CLASS_WEIGHTS).losses(
                torch.zeros(4, 2), torch.zeros(4).long()
            ),
            "3 class weights and 2 classes",
        ),
        (lambda: cross_entropy(class_weights=torch.tensor([1.0, -1.0])), "positive"),
        (lambda: cross_entropy(label_smoothing=1.0), "label_smoothing is 1.0"),
        (lambda: binary_cross_entropy(label_smoothing=-0.1), "label_smoothing is -0.1"),
        (lambda: cross_entropy().exact_output_gradients(torch.zeros(2, 3, 4)), "depends on the given labels"),
        (
            lambda: cross_entropy(class_weights=CLASS_WEIGHTS).exact_output_gradients(torch.zeros(2, 3)),
            "depends on the given labels",
        ),
        (lambda: get_objective("hinge"), "'hinge'"),
        (lambda: get_objective("squared_error", label_smoothing=0.1), "no option 'label_smoothing'"),
    ],
)
def test_what_does_not_fit_is_an_error(act, named: str) -> None:
    with pytest.raises(AttributionError, match=named):
        act()


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"losses": lambda outputs, labels: outputs.sum()}, r"losses .*'own' gives shape \(\) where \(5,\)"),
        ({"losses": lambda outputs, labels: 0.0}, "losses .* gives float"),
        ({"margins": lambda outputs, labels: outputs}, "margins .* gives shape"),
        ({"losses": lambda outputs, labels: outputs.sum(1) / 0}, "NaN or infinity"),
        ({"sampled": lambda outputs, uniforms, labels: outputs[:, 0]}, "sampled_output_gradients"),
        ({"exact": lambda outputs, labels: [outputs[:, :2]]}, "exact_output_gradients"),
    ],
)
def test_an_objective_of_ones_own_is_checked(part, named: str) -> None:
    functions = {
        "losses": poisson_losses,
        "margins": no_margins,
        "sampled": signed_columns(poisson_columns),
        "exact": poisson_columns,
    } | part
    outputs, labels = torch.zeros(5, 3), torch.ones(5, 3)
    with pytest.raises(AttributionError, match=named):
        check_objective(
            Objective("own", *functions.values()), outputs, labels, "exact" if "exact" in part else "mc"
        )
    check_objective(OWN, outputs, labels, "exact")
