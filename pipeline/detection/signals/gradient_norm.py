"""Signal: the norm of a row's gradient in the last layer at the end of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.data.encoded import Chunk
from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register
from pipeline.models.features import features_and_outputs
from pipeline.scoring.plan import attribution_model
from pipeline.training.main_run import whole_trajectory
from pipeline.workers.worker import plain_objective, run_data, run_device

SLICE = 1024


def gradient_norm(evidence: Evidence) -> np.ndarray:
    """|∂loss/∂(W, b)| of the last Linear at the last checkpoint, float64 `[rows]`.

    This is GraNd of the last layer (Paul et al. 2021, arXiv 2107.07075). The gradient is g [h, 1]ᵀ with
    g = ∂loss/∂outputs (p − e_y for cross-entropy) and h the input of the Linear, so that its norm is |g| · √(|h|² + 1).
    It needs only a forward pass, and is exact if the output of the Linear is the output of the model. Of a model
    without a Linear, h is the outputs.
    """
    path, chunks = evidence.path, evidence.data.chunks("train")
    names = [f"gradient norm: chunk {chunk.id}" for chunk in chunks]
    parts = evidence.context.workers.run(_chunk_norms, [(path, chunk) for chunk in chunks], names)
    return np.concatenate(parts).astype(np.float64)


def _chunk_norms(run_path: Path, chunk: Chunk) -> np.ndarray:
    """The norms for the rows of a chunk, float32 `[rows]` (a task for a worker)."""
    model, objective, device = attribution_model(run_path), plain_objective(run_path), run_device(run_path)
    trajectory = Trajectory.load(whole_trajectory(run_path))
    last = len(trajectory.checkpoints) - 1
    restore_weights(model, trajectory.load_weights(last), trajectory.checkpoints[last].path)
    rows = run_data(run_path).load(chunk)
    norms = []
    for start in range(0, len(rows), SLICE):
        batch = rows.select(slice(start, start + SLICE)).to(device)
        features, outputs = features_and_outputs(model, batch.inputs)
        outputs.requires_grad_()
        (gradient,) = torch.autograd.grad(objective.losses(outputs, batch.labels).sum(), outputs)
        norms.append(gradient.norm(dim=1) * (features.square().sum(1) + 1).sqrt())
    return torch.cat(norms).cpu().numpy()


GRADIENT_NORM = register(
    Signal(
        name="gradient_norm",
        label="pulls at the last layer",
        words="how strongly the row still pulled at the last layer in the end",
        high_is_suspicious=True,
        of_training=gradient_norm,
    )
)
