"""Linear layers whose weight is ``[in, out]``: ``Conv1D`` of Hugging Face's transformers, which GPT-2 consists of."""

from __future__ import annotations

from typing import Any

from torch import nn

from pipeline.attribution.layers import register_look_alikes
from pipeline.attribution.layers.linear import LinearRule


def is_transposed_linear(module: nn.Module) -> bool:
    """Returns whether the module is ``transformers.pytorch_utils.Conv1D``."""
    kind = type(module)
    return (kind.__name__, kind.__module__) == ("Conv1D", "transformers.pytorch_utils")


@register_look_alikes(is_transposed_linear)
class TransposedLinearRule(LinearRule):
    """The product with ``[in, out]`` and a bias ``[out]``."""

    transposed = True

    def weight_shape(self, module: Any) -> tuple[int, int]:
        size_in, size_out = module.weight.shape
        return size_out, size_in
