"""Models with LoRA adapters by peft: gradients of rows, against a backward pass per row, and a recorded training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from pipeline.attribution import Trajectory, TrajectoryRecorder, attribute, capture, coverage, cross_entropy
from pipeline.attribution.model.coverage import matrix_parameters

ROWS, LENGTH = 7, 6


def adapted(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "bert":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        model = BertForSequenceClassification(BertConfig(**sizes, vocab_size=20, max_position_embeddings=8))
        targets, head = ["query", "value"], ["classifier"]
    else:
        config = GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=8, pad_token_id=0)
        model, targets, head = GPT2ForSequenceClassification(config), ["c_attn"], ["score"]
    lora = LoraConfig(
        r=3,
        target_modules=targets,
        modules_to_save=head,
        init_lora_weights=False,
        lora_dropout=0.1,
        fan_in_fan_out=name == "gpt2",
    )
    return get_peft_model(model, lora)


def rows_of(seed: int) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (ROWS, LENGTH), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.arange(ROWS) % 2


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_gradients_of_adapters_equal_a_backward_pass_per_row(name: str) -> None:
    model = adapted(name).double().eval()
    inputs, labels = rows_of(0)
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in key for key in trained)
    with capture(model) as captured:
        losses = cross_entropy().losses(captured.forward(inputs), labels)
        found = {key: g.matrices() for key, g in captured.gradients(losses, torch.ones_like(losses))}
    compared = set()
    for row in range(ROWS):
        model.zero_grad()
        outputs = model(**{key: value[row : row + 1] for key, value in inputs.items()}).logits
        nn.functional.cross_entropy(outputs, labels[row : row + 1]).backward()
        mine = matrix_parameters(model, {key: matrices[row] for key, matrices in found.items()})
        for key, parameter in model.named_parameters():
            if parameter.grad is not None and key in mine:
                compared.add(key)
                torch.testing.assert_close(mine[key], parameter.grad)
    assert compared == trained


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_training_of_adapters_is_recorded_and_attributed(name: str, tmp_path: Path) -> None:
    model, (inputs, labels) = adapted(name), rows_of(0)
    assert coverage(model).share == 1
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    recorder = TrajectoryRecorder(
        model, optimizer, tmp_path, steps=8, train_rows=ROWS, batch_size=ROWS, checkpoints=2
    )
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(**inputs).logits, labels)
        loss.backward()
        optimizer.step()
        recorder.step(loss=loss)
    for method in ("source", "source_refined"):
        scores = attribute(model, Trajectory.load(tmp_path), [rows_of(0)], [rows_of(1)], method=method)
        assert scores.harm is not None
        assert scores.harm.isfinite().all()
        assert scores.harm.abs().max() > 0
