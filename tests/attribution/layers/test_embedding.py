from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.attribution import capture, covered_layers

from . import assert_matches_functional_gradients


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 3),
    positions=st.lists(st.integers(1, 4), max_size=2),
    vocabulary=st.integers(1, 5),
    width=st.integers(1, 4),
    padding=st.booleans(),
)
def test_per_example_gradients(batch, positions, vocabulary, width, padding) -> None:
    torch.manual_seed(0)
    model = nn.Embedding(vocabulary, width, padding_idx=vocabulary - 1 if padding else None).double()
    with torch.no_grad():
        model.weight.normal_()
    tokens = torch.randint(0, vocabulary, (batch, *positions))
    if padding:
        assert_padding_has_no_gradient(model, tokens)
    else:
        assert_matches_functional_gradients(model, tokens)


def assert_padding_has_no_gradient(model: nn.Embedding, tokens: torch.Tensor) -> None:
    with capture(model) as captured:
        outputs = captured.forward(tokens)
        ((_, gradients),) = captured.gradients(outputs, torch.ones_like(outputs))
        found = gradients.matrices()
        assert gradients.input_covariance(None)[model.padding_idx] == 0
    counts = torch.zeros(len(tokens), model.num_embeddings, dtype=torch.float64)
    for row, own in enumerate(tokens):
        counts[row] = torch.bincount(own.flatten(), minlength=model.num_embeddings)
    counts[:, model.padding_idx] = 0
    torch.testing.assert_close(found, counts[:, None, :].expand_as(found))


def test_embeddings_that_change_weights_or_mix_rows_are_not_covered() -> None:
    assert covered_layers(nn.Embedding(3, 2, max_norm=1.0)) == []
    assert covered_layers(nn.Embedding(3, 2, scale_grad_by_freq=True)) == []
