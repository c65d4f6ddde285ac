"""A weight that Linear and Embedding modules share, such as that of a language model's embedding and output head.

The layer's matrix is the Linear weight ``[out, in]`` with one more column for each bias. A Linear use adds Σ g aᵀ to an
example's gradient. An Embedding use adds Σ onehot(token) gᵀ: the one-hot vector takes the place of the Linear's output
gradient. The uses are summed before they are squared, so Λ is exact for the shared weight. The eigenvectors come from
the covariances of the Linear uses alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.gradients.indexed_gradients import IndexedGradients
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.gradients.tied_gradients import TiedGradients
from pipeline.attribution.layers import Block, LayerRule, Piece, Record, find_rule, trained


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
            none = found.outputs.new_zeros(len(found.outputs), 0, block.shape[1])
            linear = OuterProducts(none, found.outputs.new_zeros(len(found.outputs), 0, block.shape[0]))
            return TiedGradients(linear, found.tokens, functional.pad(found.outputs, (0, self.biases)))
        assert isinstance(found, OuterProducts)
        wide = found.inputs.new_zeros(*found.inputs.shape[:2], block.shape[1])
        wide[..., :width] = found.inputs[..., :width]
        if self.bias is not None:
            wide[..., width + self.bias] = 1.0
        tokens = torch.zeros(len(wide), 0, dtype=torch.int64, device=wide.device)
        return TiedGradients(OuterProducts(wide, found.outputs), tokens, wide[:, :0])

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
