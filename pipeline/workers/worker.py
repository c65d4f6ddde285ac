"""What a task needs of its run: config, data, model and loss. Each process reads them once; tasks don't carry them."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from distributed import get_worker
from torch import nn

from pipeline.attribution.objectives import Objective, get_objective
from pipeline.config import AuditConfig, load_config
from pipeline.data.encoded import EncodedData
from pipeline.models import build_model, initialise
from pipeline.runs.settled import CHOSEN, settled
from pipeline.workers.budgets import Budgets, budgets
from pipeline.workers.kept import keep
from pipeline.workers.topics import PROGRESS_TOPIC

PROGRESS_SECONDS = 0.5

_last_progress = 0.0


def run_config(run_path: Path) -> AuditConfig:
    """The config of a run with what its trial chose."""
    path = run_path / "config.yaml"
    return keep("config", path, lambda: settled(load_config(path), run_path), run_path / CHOSEN)


def run_data(run_path: Path) -> EncodedData:
    return keep("data", run_path / "encoding.json", lambda: EncodedData.open(run_path))


def run_budgets(run_path: Path) -> Budgets:
    return budgets(run_config(run_path).compute.memory_per_worker)


def run_objective(run_path: Path) -> Objective:
    """The loss that training minimises, without row weights. Row gradients, curvature and self-influence use it."""
    smoothing = run_config(run_path).training.label_smoothing
    options = {"label_smoothing": smoothing} if smoothing else {}
    return get_objective(run_data(run_path).encoding.target.loss, **options)


def plain_objective(run_path: Path) -> Objective:
    """The loss that is measured, and whose change harm predicts: the loss of training without label smoothing.

    A smoothed loss is no likelihood of the labels: it rises again when the model is very sure of the right label.
    """
    return get_objective(run_data(run_path).encoding.target.loss)


def run_model(run_path: Path, seed: int) -> nn.Module:
    """The model of the run with weights drawn by `seed`, on the device of this worker."""
    config, data = run_config(run_path), run_data(run_path)
    return initialise(lambda: build_model(config.model, data.encoding), seed).to(run_device(run_path))


def run_device(run_path: Path) -> torch.device:
    """The configured device; the workers of one machine share its GPUs by the numbers that are their names."""
    asked = run_config(run_path).compute.device
    if asked == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        name = str(get_worker().name)
    except ValueError:
        name = "0"
    return torch.device("cuda", int(name) % torch.cuda.device_count() if name.isdigit() else 0)


def emit_progress(what: str, done: int, total: int) -> None:
    """Report to the client how far a long task is, at most twice a second; outside a worker this does nothing."""
    global _last_progress
    now = time.monotonic()
    if done < total and now - _last_progress < PROGRESS_SECONDS:
        return
    _last_progress = now
    try:
        get_worker().log_event(PROGRESS_TOPIC, {"what": what, "done": done, "total": total})
    except ValueError:
        return
