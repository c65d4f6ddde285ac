"""A pretrained encoder of texts whose last layers are trained, with a head that is trained too."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.features.kinds.text import PADDING
from pipeline.features.pretrained.models import Pretrained, sentence_model
from pipeline.models.mlp import dense_layers

EMBEDDING = "sentence_embedding"
"""Under this name, sentence-transformers gives the vector of a text."""


class Finetuned(nn.Module):
    """Classifies the vector that an encoder makes of a text, optionally joined with dense columns.

    The input is a tensor of pieces of words `[batch, length]` (0 is padding, else 1 + the tokenizer's number), or a
    dict of `pieces` and `dense` `[batch, columns]`. The output is `[batch, outputs]`.

    Args:
        stages: the modules of the encoder, each from and to a dict of tensors.
        padding: the tokenizer's number of padding.
        head: from `[batch, width + columns]` to `[batch, outputs]`.
    """

    def __init__(self, stages: list[nn.Module], padding: int, head: nn.Module):
        super().__init__()
        self.stages, self.padding, self.head = nn.ModuleList(stages), padding, head

    def forward(self, inputs: Tensor | dict[str, Tensor]) -> Tensor:
        features = self.embed(inputs["pieces"] if isinstance(inputs, dict) else inputs)
        if isinstance(inputs, dict):
            features = torch.cat([features, inputs["dense"]], dim=1)
        return self.head(features)

    def embed(self, pieces: Tensor) -> Tensor:
        """The vectors of texts, float32 `[batch, width]`, not scaled to unit length."""
        present = pieces != PADDING
        numbers = torch.where(present, pieces.long() - 1, self.padding)
        found = {"input_ids": numbers, "attention_mask": present.long()}
        for stage in self.stages:
            found = stage(found)
        return found[EMBEDDING]


def finetuned(
    asked: Pretrained, layers: int | None, outputs: int, dense: int, hidden: list[int], dropout: float
) -> Finetuned:
    """The encoder with its pretrained weights, and a head with fresh ones.

    What is not trained becomes a buffer that no state dict has, so that checkpoints hold the trained part alone.

    Args:
        asked: the encoder.
        layers: how many of its last layers are trained; None trains all that the vector depends on.
        outputs: classes, labels, or 1 for regression.
        dense: columns of `dense`; 0 for text alone.
        hidden: widths of the hidden layers of the head where there are such columns; the head of a text is linear.
        dropout: probability after each hidden layer of the head.

    Raises:
        InputError: the encoder can't be loaded, has fewer layers, or is not made of layers that are alike.
    """
    pretrained = sentence_model(asked, "cpu")
    stages = [copy.deepcopy(each) for each in pretrained if type(each).__name__ != "Normalize"]
    padding = pretrained.tokenizer.pad_token_id or 0
    model = Finetuned(stages, padding, nn.Identity())
    try:
        vector = model.embed(torch.tensor([[PADDING + 1]]))
    except Exception as error:  # whatever the library raises
        raise InputError(
            f"{asked.key}: {asked.encoder} can't be trained further ({type(error).__name__}: {error})",
            "Leave `finetune` out, or train it as a model of your own: docs/how-to/own-model.md.",
        ) from error
    model.head = nn.Sequential(
        *dense_layers(vector.shape[1] + dense, hidden if dense else [], outputs, dropout)
    )
    _freeze(model, {id(each) for each in _trained(asked, model, _used(model, vector), layers)})
    return model


def _trained(
    asked: Pretrained, model: Finetuned, used: list[nn.Parameter], layers: int | None
) -> Iterator[nn.Parameter]:
    """The parameters to train: those of the head, of the last layers, and of what comes after these, if `used`."""
    yield from model.head.parameters()
    if layers is None:
        yield from used
        return
    blocks = max(
        (
            each
            for each in model.stages.modules()
            if isinstance(each, nn.ModuleList) and each is not model.stages
        ),
        key=len,
        default=nn.ModuleList(),
    )
    if layers > len(blocks):
        raise InputError(
            f"{asked.key}: finetune is {layers}, and {asked.encoder} has {len(blocks)} layers",
            "Lower it, or write `finetune: all`, which trains the embeddings too.",
        )
    chosen = {id(each) for block in blocks[len(blocks) - layers :] for each in block.parameters()}
    later = False
    for each in used:  # in the order of the modules
        later = later or id(each) in chosen
        if later:
            yield each


def _used(model: Finetuned, vector: Tensor) -> list[nn.Parameter]:
    """The parameters of the encoder on which the vector of a text depends, in the order of its modules."""
    found = list(model.stages.parameters())
    gradients = torch.autograd.grad(vector.sum(), found, allow_unused=True)
    return [each for each, gradient in zip(found, gradients) if gradient is not None]


def _freeze(model: nn.Module, trained: set[int]) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in trained:
                delattr(module, name)
                module.register_buffer(name, parameter.detach(), persistent=False)
