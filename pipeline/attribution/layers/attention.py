"""``nn.MultiheadAttention``: its four projections are Linear layers over positions.

torch computes all four projections in one function, where forward hooks don't see them. While a model is watched, the
module therefore runs ``_forward`` below, which computes the same function. The projections of queries, keys and values
are three blocks even if one parameter (``in_proj_weight``) holds all three. Positions that a mask hides have an output
gradient of zero, so they add nothing to any sum.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.layers import Block, Piece, Record, register, trained
from pipeline.attribution.layers.linear import linear_gradients

_IN = ("q_proj", "k_proj", "v_proj")


@register(nn.MultiheadAttention)
class AttentionRule:
    """The rule of ``nn.MultiheadAttention``. It doesn't support ``bias_k``, ``bias_v`` and ``add_zero_attn``."""

    kind = "attention"
    diagonal_input = False
    diagonal_gradient = False
    takes_positions = True

    def supports(self, module: nn.MultiheadAttention) -> bool:
        plain = type(module.out_proj) is nn.modules.linear.NonDynamicallyQuantizableLinear
        return plain and module.bias_k is None and not module.add_zero_attn

    def blocks(self, module: nn.MultiheadAttention) -> list[Block]:
        found = []
        if trained(module.out_proj, "weight"):
            bias = "out_proj.bias" if trained(module.out_proj, "bias") else None
            found.append(_block("out_proj", module.out_proj.weight.shape, "out_proj.weight", bias, None))
        size = module.embed_dim
        bias = "in_proj_bias" if trained(module, "in_proj_bias") else None
        for place, name in enumerate(_IN):
            rows = (place * size, (place + 1) * size)
            if trained(module, "in_proj_weight"):
                found.append(_block(name, (size, size), "in_proj_weight", bias, rows, rows))
            elif trained(module, f"{name}_weight"):
                shape = module.get_parameter(f"{name}_weight").shape
                found.append(_block(name, shape, f"{name}_weight", bias, rows))
        return found

    def gradients(
        self,
        module: nn.MultiheadAttention,  # noqa: ARG002 - the inputs say it all
        block: Block,
        inputs: Tensor,
        output_gradients: Tensor,
    ) -> OuterProducts:
        return linear_gradients(inputs, output_gradients, len(block.pieces) > 1)

    def watch(self, module: nn.MultiheadAttention, record: Record) -> Callable[[], None]:
        # An attribute of the instance takes precedence over the method of its class.
        module.forward = partial(_forward, module, {b.name: b for b in self.blocks(module)}, record)  # type: ignore[method-assign]
        return partial(module.__delattr__, "forward")


def _block(
    name: str,
    shape: tuple[int, ...],
    weight: str,
    bias: str | None,
    bias_rows: tuple[int, int] | None,
    rows: tuple[int, int] | None = None,
) -> Block:
    pieces = [Piece(weight, (0, shape[1]), rows)]
    if bias is not None:
        pieces.append(Piece(bias, (shape[1], shape[1] + 1), bias_rows))
    return Block(name, (shape[0], pieces[-1].columns[1]), tuple(pieces))


def _forward(
    module: nn.MultiheadAttention,
    blocks: dict[str, Block],
    record: Record,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Computes ``nn.MultiheadAttention.forward`` without dropout, for inputs that have a batch dimension."""
    if query.dim() != 3:
        raise AttributionError(
            f"nn.MultiheadAttention got a query of shape {tuple(query.shape)}, without a batch.",
            "Give it batches of sequences, of three dimensions.",
        )

    def project(name: str, inputs: Tensor) -> Tensor:
        output = functional.linear(inputs, *_projection(module, name))
        return record(blocks[name], inputs, output) if name in blocks else output

    given = (query, key, value) if module.batch_first else [x.transpose(0, 1) for x in (query, key, value)]
    heads = [
        project(name, inputs).unflatten(2, (module.num_heads, -1)).transpose(1, 2)
        for name, inputs in zip(_IN, given, strict=True)
    ]
    causal = is_causal and key_padding_mask is None and not need_weights
    mask = None if causal else _mask(attn_mask, key_padding_mask, heads[0])
    weights = None
    if need_weights:
        scores = heads[0] @ heads[1].mT / sqrt(module.head_dim)
        weights = (scores if mask is None else scores + mask).softmax(3)
        attended = weights @ heads[2]
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        attended = functional.scaled_dot_product_attention(
            heads[0], heads[1], heads[2], mask, is_causal=causal
        )
    output = project("out_proj", attended.transpose(1, 2).flatten(2))
    return (output if module.batch_first else output.transpose(0, 1)), weights


def _projection(module: nn.MultiheadAttention, name: str) -> tuple[Tensor, Tensor | None]:
    """Returns the weight and the bias of one of the four projections."""
    if name == "out_proj":
        return module.out_proj.weight, module.out_proj.bias
    place, size = _IN.index(name), module.embed_dim
    rows = slice(place * size, (place + 1) * size)
    packed = module.in_proj_weight
    weight = module.get_parameter(f"{name}_weight") if packed is None else packed[rows]
    return weight, None if module.in_proj_bias is None else module.in_proj_bias[rows]


def _mask(attention: Tensor | None, padding: Tensor | None, heads: Tensor) -> Tensor | None:
    """Returns the sum of both masks, which is added to the attention scores ``[batch, heads, queries, keys]``.

    True in a boolean mask becomes −∞. The result is None if there is no mask.
    """
    batch, count = heads.shape[:2]
    if attention is not None:
        attention = _added(attention, heads)
        if attention.dim() == 3:
            attention = attention.unflatten(0, (batch, count))
    if padding is None:
        return attention
    padding = _added(padding, heads)[:, None, None]
    return padding if attention is None else attention + padding


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def sequence_first_modules(model: nn.Module) -> set[nn.Module]:
    """Returns the modules inside torch's transformers whose inputs have the batch as their second dimension.

    ``nn.MultiheadAttention`` is not among them: its ``_forward`` above puts the batch first.
    """
    found: set[nn.Module] = set()
    for module in model.modules():
        stack = isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder)
        layer = module.layers[0] if stack else module  # type: ignore[index]
        if isinstance(layer, _LAYERS) and not layer.self_attn.batch_first:
            found |= {child for child in module.children() if not isinstance(child, nn.MultiheadAttention)}
    return found
