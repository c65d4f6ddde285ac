"""Stock models of Hugging Face's transformers, tiny and random: gradients of rows, against a backward pass per row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from pipeline.attribution import (
    Trajectory,
    TrajectoryRecorder,
    attribute,
    capture,
    coverage,
    cross_entropy,
    token_queries,
)
from pipeline.attribution.model.coverage import matrix_parameters

ROWS, LENGTH = 7, 12
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = {"vocab_size": 40, "max_position_embeddings": 16}


def distilbert() -> nn.Module:
    config = DistilBertConfig(**TEXT, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    return DistilBertForSequenceClassification(config)


def gpt2() -> nn.Module:
    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=16, pad_token_id=0)
    return GPT2ForSequenceClassification(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**SIZES, **TEXT)),
    "distilbert": distilbert,
    "gpt2": gpt2,
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**SIZES, **TEXT, pad_token_id=0)),
    "vit": lambda: ViTForImageClassification(ViTConfig(**SIZES, image_size=8, patch_size=4)),
}


def rows_of(name: str) -> tuple[dict[str, Tensor], Tensor]:
    labels = torch.randint(0, 2, (ROWS,))
    if name == "vit":
        return {"pixel_values": torch.randn(ROWS, 3, 8, 8)}, labels
    ids = torch.randint(1, 40, (ROWS, LENGTH))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels


@pytest.mark.parametrize("name", MODELS)
def test_gradients_equal_a_backward_pass_per_row(name: str) -> None:
    torch.manual_seed(0)
    model, (inputs, labels) = MODELS[name]().double().eval(), rows_of(name)
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    with capture(model) as captured:
        losses = cross_entropy().losses(captured.forward(inputs), labels)
        found = {layer.name: torch.zeros(ROWS, *layer.shape).double() for layer in captured.layers}
        found |= {key: g.matrices() for key, g in captured.gradients(losses, torch.ones_like(losses))}
    for row in range(ROWS):
        model.zero_grad()
        outputs = model(**{key: value[row : row + 1] for key, value in inputs.items()}).logits
        nn.functional.cross_entropy(outputs, labels[row : row + 1]).backward()
        mine = matrix_parameters(model, {key: matrices[row] for key, matrices in found.items()})
        expected = {key: p.grad for key, p in model.named_parameters() if key in mine and p.grad is not None}
        for key, gradient in expected.items():
            # Llama's norm computes in float32
            torch.testing.assert_close(mine[key], gradient, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_is_recorded_and_attributed(name: str, tmp_path) -> None:
    torch.manual_seed(0)
    model, (inputs, labels) = MODELS[name](), rows_of(name)
    assert coverage(model).share > 0.95
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=4, train_rows=ROWS, checkpoints=2)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**inputs).logits, labels).backward()
        optimizer.step()
        recorder.step()
    scores = attribute(model, Trajectory.load(tmp_path), [(inputs, labels)], [(inputs, labels)])
    assert scores.harm is not None
    assert scores.harm.shape == (ROWS,)
    assert scores.harm.isfinite().all()


LANGUAGE_MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **TEXT, tie_word_embeddings=True)),
}


@pytest.mark.parametrize("method", ["source", "source_refined"])
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_language_model_is_attributed_token_by_token(name: str, method: str, tmp_path) -> None:
    """A tied head that is taken to be wide, and labels that leave out a prompt."""
    torch.manual_seed(0)
    model, text = LANGUAGE_MODELS[name](), torch.randint(1, 40, (ROWS, LENGTH + 1))
    inputs, labels = {"input_ids": text[:, :-1]}, text[:, 1:].clone()
    labels[:, :3] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=4, train_rows=ROWS, checkpoints=2)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten()).backward()
        optimizer.step()
        recorder.step()
    assert any("40 outputs, more than 36" in said for said in coverage(model, 36).approximated)
    run, data = Trajectory.load(tmp_path), [(inputs, labels)]
    mean = cross_entropy(reduction="mean")
    scores = attribute(model, run, data, data, loss=mean, method=method, widest_outputs=36, per_token=True)
    assert scores.harm is not None
    assert scores.token_harm is not None
    torch.testing.assert_close(scores.token_harm.sum(1), scores.harm, rtol=1e-3, atol=1e-6)
    assert not scores.token_harm[:, :3].any()
    of_tokens, own, places = token_queries(inputs, labels)
    each = attribute(model, run, data, [(of_tokens, own)], loss=mean, widest_outputs=36, reduce_queries=False)
    assert each.influence is not None
    assert each.influence.shape == (len(places), ROWS)
