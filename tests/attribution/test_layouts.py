"""Layers that get something else than one input per row, against a backward pass for each row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import AttributionError, capture, cross_entropy
from pipeline.attribution.model.unseen import unseen_gradients

from .oracles import loss_matrices

LENGTH = 5


class Around(nn.Module):
    """A token embedding, whatever ``between`` makes of it, and a head."""

    def __init__(self, between: Callable[[nn.Module, Tensor, Tensor], Tensor], inner: nn.Module) -> None:
        super().__init__()
        self.word, self.inner, self.head = nn.Embedding(7, 4), inner, nn.Linear(4, 3)
        self.between = between

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.between(self.inner, self.word(tokens), tokens)).mean(1))


def positions(inner: nn.Module, words: Tensor, tokens: Tensor) -> Tensor:
    return words + inner(torch.arange(tokens.shape[1]))


def position_ids(inner: nn.Module, words: Tensor, tokens: Tensor) -> Tensor:
    return words + inner(torch.arange(tokens.shape[1])[None])


def folded(inner: nn.Module, words: Tensor, _: Tensor) -> Tensor:
    return inner(words.reshape(-1, 4)).reshape(words.shape)


def towers(inner: nn.Module, words: Tensor, _: Tensor) -> Tensor:
    left, right = inner(torch.cat([words[:, :2], words[:, 2:4]])).chunk(2)
    return torch.cat([left, right * left], 1)


def pictures(inner: nn.Module, words: Tensor, _: Tensor) -> Tensor:
    return words + inner(words.reshape(-1, 1, 2, 2)).flatten(1).reshape(len(words), LENGTH, 4)


CASES = {
    "positions": (positions, lambda: nn.Embedding(LENGTH, 4)),
    "positions with a norm": (positions, lambda: nn.Sequential(nn.Embedding(LENGTH, 4), nn.LayerNorm(4))),
    "position ids of one row": (position_ids, lambda: nn.Embedding(LENGTH, 4)),
    "tokens folded into the batch": (folded, lambda: nn.Linear(4, 4)),
    "a folded norm": (folded, lambda: nn.LayerNorm(4)),
    "two towers": (towers, lambda: nn.Linear(4, 4)),
    "folded pictures": (pictures, lambda: nn.Conv2d(1, 1, 2, padding="same")),
}


def model_of(case: str) -> nn.Module:
    torch.manual_seed(0)
    between, inner = CASES[case]
    return Around(between, inner()).double()


def captured(model: nn.Module, tokens: Tensor, labels: Tensor) -> dict[str, Tensor]:
    with capture(model) as found:
        losses = cross_entropy().losses(found.forward(tokens), labels)
        return {name: g.matrices() for name, g in found.gradients(losses, torch.ones_like(losses))}


@pytest.mark.parametrize("rows", [1, 2, LENGTH, 8])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_a_backward_pass_per_row(case: str, rows: int) -> None:
    """Also where as many rows as positions are in the batch."""
    model = model_of(case)
    tokens, labels = torch.randint(0, 7, (rows, LENGTH)), torch.randint(0, 3, (rows,))
    found = captured(model, tokens, labels)
    torch.testing.assert_close(found, loss_matrices(model, cross_entropy(), tokens, labels))
    assert unseen_gradients(model, tokens) == []


def test_what_is_known_of_a_model_holds_for_batches_of_other_sizes() -> None:
    model = model_of("positions")
    for rows, length in ((4, 3), (3, 5), (5, 5), (1, 2)):
        tokens, labels = torch.randint(0, 7, (rows, length)), torch.randint(0, 3, (rows,))
        found = captured(model, tokens, labels)
        torch.testing.assert_close(found, loss_matrices(model, cross_entropy(), tokens, labels))


def refused(between: Callable, inner: nn.Module, message: str) -> None:
    model, tokens = Around(between, inner).double(), torch.randint(0, 7, (6, LENGTH))
    with pytest.raises(AttributionError, match=message):
        captured(model, tokens, torch.zeros(6, dtype=torch.int64))


def test_rows_that_see_each_other_are_refused() -> None:
    def centred(inner: nn.Module, words: Tensor, _: Tensor) -> Tensor:
        return inner(words - words.mean(0))

    refused(centred, nn.Linear(4, 4), "changes with the other rows of its batch")


def test_positions_whose_use_has_no_place_for_the_batch_are_refused() -> None:
    def unsqueezed(inner: nn.Module, words: Tensor, tokens: Tensor) -> Tensor:
        return words + inner(torch.arange(tokens.shape[1]))[None]

    refused(unsqueezed, nn.Embedding(LENGTH, 4), "'inner'.*no place for the batch")


def test_rows_that_are_routed_to_experts_are_refused() -> None:
    def routed(inner: nn.Module, words: Tensor, tokens: Tensor) -> Tensor:
        chosen = tokens[:, 0] % 2 == 0
        found = words.clone()
        found[chosen] = inner(words[chosen])
        return found

    refused(routed, nn.Linear(4, 4), "Layer 'inner' is ")


def test_a_batch_in_reverse_order_inside_the_model_is_refused() -> None:
    def backwards(inner: nn.Module, words: Tensor, _: Tensor) -> Tensor:
        return inner(words.flip(0).reshape(-1, 4)).reshape(words.shape).flip(0)

    refused(backwards, nn.Linear(4, 4), "in another order")


def test_rows_in_another_order_inside_the_model_are_refused() -> None:
    def shifted(inner: nn.Module, words: Tensor, _: Tensor) -> Tensor:
        return inner(words.roll(1, 0)).roll(-1, 0)

    refused(shifted, nn.Linear(4, 4), "in another order")


class Inner(nn.Module):
    """As the models of Hugging Face: named arguments, and an output of several things."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.embedding(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"hidden": hidden, "logits": self.head(mean)}


def test_named_arguments_and_the_logits_of_several_outputs() -> None:
    torch.manual_seed(0)
    model = Inner().double()
    ids, labels = torch.randint(0, 7, (6, LENGTH)), torch.randint(0, 3, (6,))
    mask = (torch.arange(LENGTH) < torch.randint(1, LENGTH, (6, 1))).long()
    found = captured(model, {"input_ids": ids, "attention_mask": mask}, labels)  # type: ignore[arg-type]
    for row in range(6):
        model.zero_grad()
        outputs = model(ids[row : row + 1], mask[row : row + 1])["logits"]
        nn.functional.cross_entropy(outputs, labels[row : row + 1]).backward()
        torch.testing.assert_close(found["embedding"][row], model.embedding.weight.grad.T)
