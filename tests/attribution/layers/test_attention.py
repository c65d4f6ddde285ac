"""Attention's projections against ``torch.func`` through torch's own forward pass, over drawn shapes and masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.attribution import AttributionError, capture, coverage, covered_layers

SIZES = st.integers(1, 4)


class Attend(nn.Module):
    """One attention as a model of (queries, keys, values, masks), batch first whatever the attention has."""

    def __init__(self, attention: nn.MultiheadAttention, mask: Tensor | None, **options: bool) -> None:
        super().__init__()
        self.attention, self.mask, self.options = attention, mask, options

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        given = [inputs[name] for name in ("query", "key", "value")]
        if not self.attention.batch_first:
            given = [each.transpose(0, 1) for each in given]
        padding = inputs.get("padding")
        outputs, _ = self.attention(*given, key_padding_mask=padding, attn_mask=self.mask, **self.options)
        return outputs if self.attention.batch_first else outputs.transpose(0, 1)


def functional_gradients(model: nn.Module, inputs: dict[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    """Parameter -> every row's gradient of Σ weights · outputs."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def value(parameters: dict[str, Tensor], row: dict[str, Tensor], weight: Tensor) -> Tensor:
        one = {name: each[None] for name, each in row.items()}
        return (torch.func.functional_call(model, parameters, (one,))[0] * weight).sum()

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.func.vmap(torch.func.grad(value), in_dims=(None, 0, 0))(parameters, inputs, weights)


def expected_matrices(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters' gradients as those of the four projections, with biases as a last column."""
    found = {name.removeprefix("attention."): value for name, value in found.items()}
    weights = (
        dict(zip(("q", "k", "v"), found["in_proj_weight"].chunk(3, 1), strict=True))
        if "in_proj_weight" in found
        else {name: found[f"{name}_proj_weight"] for name in "qkv"}
    )
    matrices = {f"{name}_proj": weight for name, weight in weights.items()}
    matrices["out_proj"] = found["out_proj.weight"]
    if "in_proj_bias" in found:
        biases = [*found["in_proj_bias"].chunk(3, 1), found["out_proj.bias"]]
        for (name, matrix), bias in zip(matrices.items(), biases, strict=True):
            matrices[name] = torch.cat([matrix, bias[:, :, None]], 2)
    return {f"attention.{name}": matrix for name, matrix in matrices.items()}


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    lengths=st.tuples(SIZES, SIZES),
    heads=st.integers(1, 2),
    width=st.integers(1, 3),
    other=st.booleans(),
    bias=st.booleans(),
    batch_first=st.booleans(),
    masks=st.tuples(st.booleans(), st.sampled_from(["none", "bool", "float", "per head"])),
    need_weights=st.booleans(),
)
def test_per_example_gradients(
    batch, lengths, heads, width, other, bias, batch_first, masks, need_weights
) -> None:
    torch.manual_seed(0)
    size, (queries, keys) = heads * width, lengths
    options = {"kdim": 3, "vdim": 2} if other else {}
    attention = nn.MultiheadAttention(size, heads, bias=bias, batch_first=batch_first, **options).double()
    for parameter in attention.parameters():
        parameter.data = torch.randn_like(parameter)
    inputs = {
        "query": torch.randn(batch, queries, size).double(),
        "key": torch.randn(batch, keys, options.get("kdim", size)).double(),
        "value": torch.randn(batch, keys, options.get("vdim", size)).double(),
    }
    hidden = torch.rand(queries, keys) < 0.5
    hidden[:, 0] = False  # a query that sees nothing has no output
    mask = {"none": None, "bool": hidden, "float": torch.randn(queries, keys).double()}.get(masks[1])
    if masks[0]:
        inputs["padding"] = torch.rand(batch, keys) < 0.5
        inputs["padding"][:, 0] = False
    model = Attend(attention, mask, need_weights=need_weights).eval()
    if masks[1] == "per head":
        model.mask = torch.randn(batch * heads, queries, keys).double()
    weights = torch.randn(batch, queries, size).double()
    plain = model(inputs)
    with capture(model) as captured:
        outputs = captured.forward(inputs)
        found = {name: each.matrices() for name, each in captured.gradients(outputs, weights)}
    torch.testing.assert_close(outputs, plain)
    if masks[1] == "per head":  # its first dimension is no batch to vmap over
        return
    expected = expected_matrices(functional_gradients(model, inputs, weights))
    assert found.keys() == expected.keys()
    for name, matrix in expected.items():
        torch.testing.assert_close(found[name], matrix)


def test_attention_weights_are_torchs_own() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()
    inputs = torch.randn(3, 5, 4).double()
    for average in (True, False):
        plain = attention(inputs, inputs, inputs, average_attn_weights=average)
        seen: list[tuple[Tensor, Tensor]] = []
        with capture(attention):
            seen.append(attention(inputs, inputs, inputs, average_attn_weights=average))
        torch.testing.assert_close(seen[0][0], plain[0])
        torch.testing.assert_close(seen[0][1], plain[1])
    assert "forward" not in vars(attention)


def test_a_causal_hint_stands_for_its_mask() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    inputs = torch.randn(3, 5, 4).double()
    options = {"attn_mask": mask, "is_causal": True, "need_weights": False}
    plain, _ = attention(inputs, inputs, inputs, **options)
    with capture(attention):
        found, _ = attention(inputs, inputs, inputs, **options)
    torch.testing.assert_close(found, plain)


def test_masked_keys_are_left_out_of_the_factors() -> None:
    torch.manual_seed(0)
    model = Attend(nn.MultiheadAttention(4, 2, batch_first=True).double(), None)
    inputs = {name: torch.randn(2, 5, 4).double() for name in ("query", "key", "value")}
    inputs["padding"] = torch.zeros(2, 5, dtype=torch.bool)
    inputs["padding"][0, 3:] = True
    weights = torch.randn(2, 5, 4).double()

    def factors() -> dict[str, tuple[Tensor, Tensor]]:
        with capture(model) as captured:
            outputs = captured.forward(inputs)
            each = dict(captured.gradients(outputs, weights))
        return {name: (one.input_covariance(None), one.gradient_covariance()) for name, one in each.items()}

    before = factors()
    for name in ("key", "value"):
        inputs[name][0, 3:] = 1000.0
    torch.testing.assert_close(factors(), before)
    keys = torch.cat([inputs["key"], torch.ones(2, 5, 1).double()], 2)
    expected = torch.cat([keys[0, :3], keys[1]])
    torch.testing.assert_close(before["attention.k_proj"][0], expected.T @ expected)


def test_biases_of_keys_and_values_are_named() -> None:
    found = coverage(nn.MultiheadAttention(4, 2, add_bias_kv=True))
    assert {"bias_k", "bias_v", "in_proj_weight"} <= set(found.uncovered)
    assert "MultiheadAttention" in found.types
    assert covered_layers(nn.MultiheadAttention(4, 2, add_zero_attn=True)) == []


def test_a_sequence_without_a_batch_is_an_error() -> None:
    attention = nn.MultiheadAttention(4, 2)
    sequence = torch.randn(3, 4)
    with capture(attention), pytest.raises(AttributionError, match="without a batch"):
        attention(sequence, sequence, sequence)


def test_separate_weights_may_be_frozen_one_by_one() -> None:
    attention = nn.MultiheadAttention(4, 2, kdim=3)
    attention.k_proj_weight.requires_grad_(False)
    assert [layer.name for layer in covered_layers(attention)] == ["out_proj", "q_proj", "v_proj"]
    found = coverage(attention)
    assert (found.uncovered, found.total - found.covered) == (["in_proj_bias"], 4)
