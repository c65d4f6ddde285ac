"""A weight that Linear and Embedding modules share, such as that of a language model's embedding and output head.

The layer's matrix is the Linear weight ``[out, in]`` with one more column for each bias. A Linear use adds Σ g aᵀ to an
example's gradient. An Embedding use adds Σ onehot(token) gᵀ: the one-hot vector takes the place of the Linear's output
gradient. The uses are summed before they are squared, so Λ is exact for the shared weight.

The eigenvectors come from the covariances of the Linear uses alone. Covariances of the Embedding uses would mix inputs
with output gradients, which are of different sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.gradients.indexed_gradients import IndexedGradients
from pipeline.attribution.gradients.layer_gradients import HeldGradients
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.gradients.products import aligned_cat
from pipeline.attribution.layers import Block, LayerRule, Piece, Record, find_rule, trained


@dataclass(frozen=True)
class TiedGradients(OuterProducts):
    """Outer products with some positions that count for the covariances.

    Attributes:
        leading: the number of positions, from the first on, that the covariances are computed from.
    """

    leading: int

    def input_covariance(self, row_scale: Tensor | None) -> Tensor:
        return self._first().input_covariance(row_scale)

    def gradient_covariance(self) -> Tensor:
        return self._first().gradient_covariance()

    def joined(self, others: Sequence[HeldGradients]) -> TiedGradients:
        parts = [self, *(other for other in others if isinstance(other, TiedGradients))]
        parts.sort(key=lambda part: part.leading == 0)
        inputs = aligned_cat([part.inputs for part in parts])
        outputs = torch.cat([part.outputs for part in parts], 1)
        return TiedGradients(inputs, outputs, sum(part.leading for part in parts))

    def _first(self) -> OuterProducts:
        return OuterProducts(self.inputs[:, : self.leading], self.outputs[:, : self.leading])


class TiedRule:
    """The rule of one of the modules that share a weight; ``tied_rules`` makes it."""

    kind = "tied"
    diagonal_input = False
    diagonal_gradient = False
    takes_positions = True

    def __init__(self, own: LayerRule, block: Block, bias: int | None, biases: int) -> None:
        """Makes the rule.

        Args:
            own: the rule of the module's type.
            block: the block that ``own`` finds in the module.
            bias: the place of the module's bias among all biases; None if it has none.
            biases: the number of biases of all modules that share the weight.
        """
        self.own, self.block, self.bias, self.biases = own, block, bias, biases

    def supports(self, module: nn.Module) -> bool:
        return self.own.supports(module)

    def blocks(self, module: nn.Module) -> list[Block]:
        size_out, size_in = module.get_parameter("weight").shape
        pieces = [Piece("weight", (0, size_in))]
        if self.bias is not None:
            column = size_in + self.bias
            pieces.append(Piece("bias", (column, column + 1)))
        return [Block("", (size_out, size_in + self.biases), tuple(pieces))]

    def gradients(
        self, module: nn.Module, block: Block, inputs: Tensor, output_gradients: Tensor
    ) -> TiedGradients:
        found = self.own.gradients(module, self.block, inputs, output_gradients)
        width = block.shape[1] - self.biases
        if isinstance(found, IndexedGradients):
            tokens = functional.one_hot(found.tokens, found.vocabulary).to(found.outputs)
            return TiedGradients(functional.pad(found.outputs, (0, self.biases)), tokens, 0)
        assert isinstance(found, OuterProducts)
        wide = found.inputs.new_zeros(*found.inputs.shape[:2], block.shape[1])
        wide[..., :width] = found.inputs[..., :width]
        if self.bias is not None:
            wide[..., width + self.bias] = 1.0
        return TiedGradients(wide, found.outputs, found.positions)

    def watch(self, module: nn.Module, record: Record) -> Callable[[], None]:
        return self.own.watch(module, record)


def tied_rules(users: Mapping[int, Sequence[nn.Module]]) -> Mapping[nn.Module, LayerRule]:
    """Returns the rules of Linear and Embedding modules that share a weight but not their type or bias.

    A weight that a module of another type has as well is left out, and so is a weight with a bias that another weight
    has too.

    Args:
        users: id of a parameter -> the modules that have it.
    """
    found: dict[nn.Module, LayerRule] = {}
    for key, modules in users.items():
        rules = [find_rule(module) for module in modules]
        known = [rule for rule in rules if rule is not None and rule.kind in ("linear", "embedding")]
        weights = [module._parameters.get("weight") for module in modules]
        if len(known) < len(modules) or any(weight is None or id(weight) != key for weight in weights):
            continue
        if not trained(modules[0], "weight") or not any(rule.kind == "linear" for rule in known):
            continue
        biases = [module._parameters.get("bias") for module in modules]
        distinct = list(
            {id(bias): bias for bias in biases if bias is not None and bias.requires_grad}.values()
        )
        same = len({(type(module), id(bias)) for module, bias in zip(modules, biases, strict=True)}) == 1
        if same or any(user not in modules for bias in distinct for user in users[id(bias)]):
            continue
        for module, rule, bias in zip(modules, known, biases, strict=True):
            place = next((i for i, one in enumerate(distinct) if one is bias), None)
            found[module] = TiedRule(rule, rule.blocks(module)[0], place, len(distinct))
    return found
