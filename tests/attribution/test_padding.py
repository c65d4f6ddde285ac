"""Padding says nothing: rows with more of it have the same scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import Trajectory, TrajectoryRecorder, attribute

from .models import TinyTransformer

ROWS, STEPS = 20, 12


def padded(tokens: Tensor) -> Tensor:
    """The same rows at twice their length."""
    return torch.cat([tokens, torch.zeros_like(tokens)], 1)


@pytest.mark.parametrize("method", ["source", "influence", "source_refined"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_scores_do_not_depend_on_the_amount_of_padding(
    tmp_path: Path, method: str, optimizer: type[torch.optim.Optimizer]
) -> None:
    torch.manual_seed(0)
    model = TinyTransformer().double().eval()
    tokens, labels = torch.randint(1, 7, (ROWS, 5)), torch.randint(3, (ROWS,))
    tokens[::2, 3:] = 0
    made = optimizer(model.parameters(), lr=0.05)
    recorder = TrajectoryRecorder(model, made, tmp_path, steps=STEPS, train_rows=ROWS, checkpoints=3)
    for _ in range(STEPS):
        made.zero_grad()
        nn.functional.cross_entropy(model(tokens), labels).backward()
        made.step()
        recorder.step()

    def scores(inputs: Tensor) -> tuple[Tensor, Tensor]:
        data = [(inputs[:8], labels[:8]), (inputs[8:], labels[8:])]
        found = attribute(model, Trajectory.load(tmp_path), data, [(inputs[:4], labels[:4])], method=method)
        assert found.harm is not None
        assert found.self_influence is not None
        return found.harm, found.self_influence

    for short, long in zip(scores(tokens), scores(padded(tokens)), strict=True):
        torch.testing.assert_close(long, short, rtol=1e-6, atol=1e-6 * float(short.abs().max()))
