from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from pipeline.attribution import LayerInfo, layer_forms
from pipeline.attribution.scores.form_choice import (
    BY_TOKEN,
    DENSE,
    DIAGONAL,
    GRAM,
    LOW_RANK,
    RANK_ONE,
    Positions,
    Terms,
    choose_form,
)

from .models import model_and_rows

WIDE = LayerInfo("wide", "linear", (512, 785), 0, True, ("wide",))


def test_one_position_never_needs_a_matrix() -> None:
    choice = choose_form(WIDE, Positions(1, [6]), Terms([1]))
    assert choice.form == RANK_ONE
    assert choice.operations == 2 * 7 * (512**2 + 785**2) + 2 * 6 * 512 * 785


def test_a_few_terms_are_a_filter_and_many_are_not_worth_it() -> None:
    assert choose_form(WIDE, Positions(1, [2, 2, 2]), Terms([5, 5, 1])).form == LOW_RANK
    assert choose_form(WIDE, Positions(1, [2, 2, 2]), Terms([400, 400, 1])).form == DENSE
    assert choose_form(WIDE, Positions(1, [2, 2, 2]), None).form == DENSE


def test_many_positions_of_a_small_layer_are_dense() -> None:
    small = replace(WIDE, shape=(32, 10))
    assert choose_form(small, Positions(784, [784]), Terms([1])).form == DENSE


def test_the_chosen_form_is_never_dearer_than_the_dense_one() -> None:
    for positions in (1, 2, 5, 20, 100):
        for shape in ((10, 20), (300, 200), (2000, 3000)):
            layer, given = replace(WIDE, shape=shape), Positions(positions, [6 * positions])
            dense = choose_form(layer, given, None).cost
            assert choose_form(layer, given, Terms([1])).cost <= dense
            assert choose_form(layer, given, Terms([1], [5])).cost <= dense


def test_gram_matrices_are_for_a_few_positions_of_a_wide_layer() -> None:
    layer = replace(WIDE, shape=(1024, 1024))
    forms = {t: choose_form(layer, Positions(t, [6 * t]), Terms([1], [5])).form for t in (1, 4, 16, 64)}
    assert forms == {1: RANK_ONE, 4: GRAM, 16: GRAM, 64: DENSE}
    assert choose_form(layer, Positions(16, [96]), Terms([1])).form == DENSE
    assert choose_form(layer, Positions(16, [96]), Terms([1], [100])).form == DENSE
    choice = choose_form(layer, Positions(4, [24]), Terms([1], [5]))
    rotated, pairs, scaled = 2 * 28 * 2 * 1024**2, 5 * 4 * 24, 5 * 4
    assert choice.operations == rotated + 2 * pairs * 2048 + scaled * 2048 + 2 * pairs


def test_gram_matrices_are_only_chosen_where_errors_are_allowed() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 512), nn.Linear(512, 512)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(inputs).relu()).square().mean(1)

    for tolerance, expected in ((1e-3, GRAM), (0.0, DENSE)):
        choices = layer_forms(Wide(), torch.randn(3, 8, 8), tolerance=tolerance)
        assert choices[1].form == expected


def test_every_covered_layer_has_a_form() -> None:
    wide = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    choices = layer_forms(wide, torch.randn(3, 96), segments=3)
    assert {choice.layer: choice.form for choice in choices} == dict.fromkeys(["0", "2", "4"], LOW_RANK)
    assert [choice.form for choice in layer_forms(wide, torch.randn(3, 96))] == [RANK_ONE] * 3
    model, batch = model_and_rows("tokens")
    assert {choice.layer: choice.form for choice in layer_forms(model, batch.inputs)}["embedding"] == BY_TOKEN
    model, batch = model_and_rows("convnet")
    found = {choice.layer: choice for choice in layer_forms(model, batch.inputs)}
    assert found["0"].form == DENSE
    assert found["0"].positions == 25
    assert found["1"].form == DIAGONAL
    assert found.keys() == {"0", "1", "3", "6"}


def test_inputs_that_stay_the_same_make_the_first_layer_cheaper() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    first, second = layer_forms(model, torch.randn(3, 8))
    assert first.operations < second.operations


def test_a_layer_before_a_mean_over_positions_counts_as_one_position() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 30), nn.Linear(30, 20)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(inputs).tanh()).mean(1)

    choices = {choice.layer: choice for choice in layer_forms(Mean(), torch.randn(5, 7, 4))}
    assert (choices["first"].positions, choices["second"].positions) == (7, 1)
    assert choices["second"].form == RANK_ONE
