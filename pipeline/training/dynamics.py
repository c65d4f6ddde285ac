"""Training dynamics: loss, margin and prediction of every row after every epoch. Detection reads them.

Each epoch writes one file, `epoch-<e>.safetensors` (e counted from 1). Each tensor has one entry per judged row, in
the order of the role's rows:

- `loss`: float32, without row weights.
- classification: `margin` float32 (logit of the label minus the largest other logit), `top_class` int16 or int32
  `[rows, k]` and `top_probability` float16 `[rows, k]`, k being at most `TOP_CLASSES`.
- regression: `prediction` float32, standardised.
- multi-label: `logit` float32 `[rows, labels]` and `f1` float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.attribution.objectives import Objective
from pipeline.data.encoded import EncodedData, Rows
from pipeline.training.tensor_file import RowsFile, write_rows

TOP_CLASSES = 10
BATCH = 1024
SLICE = 65536
"""How many rows of a column are read at a time."""


def _evaluate(model: nn.Module, objective: Objective, rows: Rows, device: torch.device) -> dict[str, Tensor]:
    """Put the model into eval mode and measure the tensors of the module docstring on these rows."""
    parts: list[dict[str, Tensor]] = []
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            batch = rows.select(slice(start, start + BATCH)).to(device)
            parts.append(measure(model(batch.inputs), batch.labels, objective))
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def measure(outputs: Tensor, labels: Tensor, objective: Objective) -> dict[str, Tensor]:
    found = {"loss": objective.losses(outputs, labels)}
    if labels.dim() == 2:
        return found | {"logit": outputs.float(), "f1": f1_of_rows(outputs > 0, labels > 0)}
    margins = objective.margins(outputs, labels)
    if margins is None:
        return found | {"prediction": outputs[:, 0]}
    width = torch.int16 if outputs.shape[1] < 2**15 else torch.int32
    probability, top = outputs.softmax(1).topk(min(TOP_CLASSES, outputs.shape[1]), dim=1)
    return found | {"margin": margins, "top_class": top.to(width), "top_probability": probability.half()}


def _evaluate_chunks(
    model: nn.Module,
    objective: Objective,
    data: EncodedData,
    role: str,
    device: torch.device,
    judged: np.ndarray | None = None,
) -> Iterator[dict[str, Tensor]]:
    """`_evaluate` for each chunk of a role; only rows with `judged` (bool `[rows of the role]`) are measured."""
    for chunk in data.chunks(role):
        rows = data.load(chunk)
        if judged is not None:
            place = np.flatnonzero(judged[chunk.first : chunk.first + chunk.rows])
            rows = rows.select(torch.from_numpy(place))
        if len(rows):
            yield _evaluate(model, objective, rows, device)


def evaluate_role(
    model: nn.Module,
    objective: Objective,
    data: EncodedData,
    role: str,
    device: torch.device,
    judged: np.ndarray | None = None,
    path: Path | None = None,
) -> dict[str, Tensor]:
    """Evaluate the rows of a role and write the tensors of the module docstring to a file.

    Args:
        model: the model; the call leaves it in eval mode.
        objective: the loss that is measured.
        data: the encoded data of the run.
        role: `train`, `validation` or `holdout`.
        device: where the model lies.
        judged: bool `[rows of the role]`, which rows are measured; None measures all.
        path: the file to write; None writes nothing.

    Returns:
        The tensors that means are computed from, one entry per measured row: `loss`, and `top_class` `[rows, 1]`,
        `prediction` or `f1`.
    """
    count = data.count(role) if judged is None else int(np.count_nonzero(judged))
    parts = _evaluate_chunks(model, objective, data, role, device, judged)
    kept: dict[str, Tensor] = {}
    done = 0
    for part in parts if path is None else write_rows(path, count, parts):
        size = len(part["loss"])
        for name in _kept_columns(part):
            values = part[name][:, :1] if name == "top_class" else part[name]
            kept.setdefault(name, torch.empty(count, *values.shape[1:], dtype=values.dtype))
            kept[name][done : done + size] = values
        done += size
    return kept


def _kept_columns(part: dict[str, Tensor]) -> list[str]:
    return [name for name in ("loss", "top_class", "prediction", "f1") if name in part]


def f1_of_rows(predicted: Tensor, given: Tensor) -> Tensor:
    """F1 of each row's set of labels: 2 · |both| / (|predicted| + |given|), and 1 for two empty sets.

    The mean over the rows is the example-based F1 of multi-label classification (Godbole and Sarawagi 2004).

    Args:
        predicted: bool `[rows, labels]`.
        given: bool `[rows, labels]`.

    Returns:
        float32 `[rows]`.
    """
    both, sizes = (predicted & given).sum(1), predicted.sum(1) + given.sum(1)
    return torch.where(sizes == 0, 1.0, 2 * both / sizes.clamp(min=1)).float()


def epoch_path(directory: Path, epoch: int) -> Path:
    return directory / f"epoch-{epoch:03d}.safetensors"


def read_epoch(directory: Path, epoch: int) -> dict[str, Tensor]:
    return load_file(epoch_path(directory, epoch))


def read_column(directory: Path, name: str, epochs: int) -> Iterator[Tensor]:
    """One column of the epochs 1 … `epochs`, one tensor per epoch."""
    for epoch in range(1, epochs + 1):
        file = RowsFile(epoch_path(directory, epoch))
        yield file.read(name, 0, len(file))


def mean_column(directory: Path, name: str, epochs: int) -> np.ndarray:
    """The mean of a column over the first `epochs` epochs, float64 `[rows]`."""
    total: np.ndarray | None = None
    for epoch in range(1, epochs + 1):
        file = RowsFile(epoch_path(directory, epoch))
        total = np.full(len(file), -0.0) if total is None else total  # -0.0 + x is x, to the bit
        for start in range(0, len(file), SLICE):
            stop = min(start + SLICE, len(file))
            total[start:stop] += file.read(name, start, stop).numpy()
    assert total is not None
    total /= epochs
    return total
