"""Language models: many logits for every row, against dense matrices in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jacrev
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from attribution.models import LanguageModel
from pipeline.attribution import (
    Batch,
    Objective,
    Scores,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    covered_layers,
    cross_entropy,
)
from pipeline.attribution.curvature.gauss_newton import gauss_newton_forms, gauss_newton_products
from pipeline.attribution.model.coverage import matrix_parameters, parameter_matrices
from pipeline.attribution.rows import pass_size

ENTROPY = cross_entropy()


def language_rows(
    vocabulary: int, rows: int, tokens: int, tied: bool = True
) -> tuple[LanguageModel, Tensor, Tensor]:
    """A float64 model, inputs and labels of the next token; the first tokens of some rows are a prompt."""
    torch.manual_seed(0)
    model = LanguageModel(vocabulary, tied=tied).double()
    text = torch.randint(vocabulary, (rows, tokens + 1))
    labels = text[:, 1:].clone()
    labels[::2, : tokens // 2] = -100
    return model, text[:, :-1], labels


def test_products_are_those_of_the_dense_matrix_of_a_vocabulary() -> None:
    model, inputs, labels = language_rows(500, rows=2, tokens=2)
    names = [name for name, _ in model.named_parameters()]
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = jacrev(lambda p: functional_call(model.eval(), p, (inputs,)))(parameters)
    flat = torch.cat([jacobian[name].flatten(3) for name in names], 3)  # [rows, tokens, words, numbers]
    p = model(inputs).softmax(-1).detach()
    kept = (labels != -100).double()[..., None]
    torch.manual_seed(1)
    directions = {layer.name: torch.randn(2, *layer.shape).double() for layer in covered_layers(model)}
    batch = Batch(inputs, labels, torch.arange(2))
    found = gauss_newton_products(model, ENTROPY, batch, directions)
    forms = gauss_newton_forms(model, ENTROPY, batch, directions)
    for place in range(2):
        tensors = matrix_parameters(model, {name: value[place] for name, value in directions.items()})
        change = flat @ torch.cat([tensors[name].flatten() for name in names])
        curved = kept * (p * change - p * (p * change).sum(-1, keepdim=True))
        expected = torch.einsum("rtk,rtkn->n", curved, flat).split([parameters[n].numel() for n in names])
        shaped = {name: part.view_as(parameters[name]) for name, part in zip(names, expected, strict=True)}
        for name, matrix in parameter_matrices(model, shaped).items():
            torch.testing.assert_close(found[name][place], matrix, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(forms[place], (change * curved).sum(), rtol=1e-9, atol=1e-12)


class Recorded:
    """A short training of a language model with AdamW, recorded."""

    def __init__(self, directory: Path, vocabulary: int = 11, rows: int = 9, tokens: int = 4) -> None:
        self.model, self.inputs, self.labels = language_rows(vocabulary, rows, tokens)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        recorder = TrajectoryRecorder(
            self.model, optimizer, directory, steps=6, train_rows=rows, batch_size=rows, checkpoints=2
        )
        for _ in range(6):
            optimizer.zero_grad()
            logits = self.model(self.inputs)
            loss = (
                functional.cross_entropy(logits.flatten(0, 1), self.labels.flatten(), reduction="sum") / rows
            )
            loss.backward()
            optimizer.step()
            recorder.step()
        self.trajectory = Trajectory.load(directory)

    def scores(self, objective: Objective = ENTROPY, **options) -> Scores:
        query = [(self.inputs[:3], self.labels[:3])]
        return attribute(
            self.model, self.trajectory, [(self.inputs, self.labels)], query, loss=objective, **options
        )


@pytest.mark.parametrize("options", [{"method": "source_refined"}, {"method": "source", "calibrate": True}])
def test_scores_are_the_same_with_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict
) -> None:
    recorded = Recorded(tmp_path)
    whole, sizes, forward = recorded.scores(**options), set(), LanguageModel.forward
    one = pass_size._row_bytes(recorded.model, recorded.inputs)

    def watched(model: LanguageModel, inputs: Tensor) -> Tensor:
        sizes.add(len(inputs))
        return forward(model, inputs)

    monkeypatch.setattr(LanguageModel, "forward", watched)
    monkeypatch.setattr(pass_size, "PASS_BYTES", 3 * one)
    parts = recorded.scores(**options)
    assert max(sizes) == 3
    torch.testing.assert_close(parts.harm, whole.harm, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(parts.self_influence, whole.self_influence, rtol=1e-9, atol=1e-12)


def test_columns_of_a_vocabulary_are_made_one_at_a_time() -> None:
    model, inputs, labels = language_rows(50, rows=2, tokens=3)
    outputs = model(inputs).detach()
    columns = ENTROPY.exact_output_gradients(outputs, labels)
    assert len(columns) == 150
    root = torch.stack(list(columns)).flatten(2)
    p = outputs.softmax(-1) * 1.0
    for row in range(2):
        blocks = [
            (torch.diag(p[row, t]) - torch.outer(p[row, t], p[row, t])) * float(labels[row, t] != -100)
            for t in range(3)
        ]
        torch.testing.assert_close(root[:, row].T @ root[:, row], torch.block_diag(*blocks))
