"""Loss, margin and prediction of every row after every epoch: what detection reads of a training.

One file per epoch, `epoch-<e>.safetensors` (e counted from 1), with one entry per judged row in the order of the
role's rows: `loss` float32 (unweighted), and for classification `margin` float32 (logit of the label minus the
largest other), `top_class` int16 or int32 `[rows, k]` and `top_probability` float16 `[rows, k]`, for regression
`prediction` float32 (standardised).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.attribution.objectives import Objective
from pipeline.data.encoded import EncodedData, Rows

TOP_CLASSES = 10
BATCH = 1024


def evaluate(model: nn.Module, objective: Objective, rows: Rows, device: torch.device) -> dict[str, Tensor]:
    """What the module docstring lists, for these rows, with the model in eval mode."""
    parts: list[dict[str, Tensor]] = []
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            batch = rows.select(slice(start, start + BATCH)).to(device)
            parts.append(measure(model(batch.inputs), batch.labels, objective))
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def measure(outputs: Tensor, labels: Tensor, objective: Objective) -> dict[str, Tensor]:
    found = {"loss": objective.losses(outputs, labels)}
    margins = objective.margins(outputs, labels)
    if margins is None:
        return found | {"prediction": outputs[:, 0]}
    width = torch.int16 if outputs.shape[1] < 2**15 else torch.int32
    probability, top = outputs.softmax(1).topk(min(TOP_CLASSES, outputs.shape[1]), dim=1)
    return found | {"margin": margins, "top_class": top.to(width), "top_probability": probability.half()}


def evaluate_role(
    model: nn.Module,
    objective: Objective,
    data: EncodedData,
    role: str,
    device: torch.device,
    judged: np.ndarray | None = None,
) -> dict[str, Tensor]:
    """`evaluate` over a role, chunk by chunk; `judged` (bool `[rows]`) leaves the other rows out."""
    parts = []
    for chunk in data.chunks(role):
        rows = data.load(chunk)
        if judged is not None:
            place = np.flatnonzero(judged[chunk.first : chunk.first + chunk.rows])
            rows = rows.select(torch.from_numpy(place))
        if len(rows):
            parts.append(evaluate(model, objective, rows, device))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def accuracy(measured: dict[str, Tensor], labels: Tensor) -> float:
    return (measured["top_class"][:, 0].long() == labels.cpu()).double().mean().item()


def r_squared(measured: dict[str, Tensor], labels: Tensor) -> float:
    target = labels.cpu().double()
    residual = (measured["prediction"].double() - target).square().sum()
    return (1 - residual / (target - target.mean()).square().sum().clamp(min=1e-30)).item()


def epoch_path(directory: Path, epoch: int) -> Path:
    return directory / f"epoch-{epoch:03d}.safetensors"


def read_epoch(directory: Path, epoch: int) -> dict[str, Tensor]:
    return load_file(epoch_path(directory, epoch))


def read_column(directory: Path, name: str, epochs: int) -> Iterator[Tensor]:
    """One column, epoch by epoch from the first."""
    for epoch in range(1, epochs + 1):
        with safe_open(epoch_path(directory, epoch), "pt") as file:
            yield file.get_tensor(name)


def mean_column(directory: Path, name: str, epochs: int) -> np.ndarray:
    """float64 `[rows]`: the mean of a column over the first `epochs` epochs."""
    total: Tensor | None = None
    for column in read_column(directory, name, epochs):
        total = column.double() if total is None else total + column.double()
    assert total is not None
    return (total / epochs).numpy()
