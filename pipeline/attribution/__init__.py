"""Training data attribution for torch models: SOURCE and influence functions with EK-FAC curvature.

Needs torch and safetensors alone. Record a trajectory while training, load it, attribute:

    recorder = TrajectoryRecorder(model, optimizer, "trajectory/", steps=total_steps, train_rows=rows)
    for inputs, labels in loader:
        ...
        optimizer.step()
        recorder.step()

    scores = attribute(model, Trajectory.load("trajectory/"), train=train_batches, query=validation_batches)
    scores.self_influence, scores.harm      # nats; harm > 0: removing the row lowers the mean query loss

The method is that of Bae, Lin, Lorraine, Grosse, "Training Data Attribution via Approximate Unrolled
Differentiation" (arXiv 2405.12186).
"""

from __future__ import annotations

from pipeline.attribution.attribute import Scores, attribute
from pipeline.attribution.batchnorm import has_batchnorm, reestimate_batchnorm
from pipeline.attribution.capture import Coverage, LayerInfo, capture, coverage, covered_layers
from pipeline.attribution.errors import AttributionError, CheckpointError, NonFiniteError, OptimizerError
from pipeline.attribution.factors import (
    FactorSums,
    add_tensors,
    covariance_sums,
    eigenbases,
    eigenbases_from_tensors,
    eigenbases_to_tensors,
    spectrum_sums,
)
from pipeline.attribution.forms import FormChoice, layer_forms
from pipeline.attribution.gradients import Eigenbasis
from pipeline.attribution.objectives import Objective, cross_entropy, get_objective, squared_error
from pipeline.attribution.prepare import prepare_segment
from pipeline.attribution.recorder import TrajectoryRecorder, checkpoint_steps, first_tail_step
from pipeline.attribution.scores import (
    Batch,
    BatchScores,
    mean_gradient_sums,
    query_gradients,
    score_batch,
    score_rows,
)
from pipeline.attribution.shared_inputs import SharedInputs
from pipeline.attribution.spectrum import (
    Spectrum,
    influence_injection,
    influence_spectrum,
    source_injection,
    source_spectrum,
    source_transport,
)
from pipeline.attribution.trajectory import Checkpoint, Segment, Trajectory, weights_path, write_trajectory
from pipeline.attribution.transport import PreparedSegment, query_filters
from pipeline.attribution.weights import RunningMean, load_weights, restore_weights, save_weights

__all__ = [
    "AttributionError",
    "Batch",
    "BatchScores",
    "Checkpoint",
    "CheckpointError",
    "Coverage",
    "Eigenbasis",
    "FactorSums",
    "FormChoice",
    "LayerInfo",
    "NonFiniteError",
    "Objective",
    "OptimizerError",
    "PreparedSegment",
    "RunningMean",
    "Scores",
    "Segment",
    "SharedInputs",
    "Spectrum",
    "Trajectory",
    "TrajectoryRecorder",
    "add_tensors",
    "attribute",
    "capture",
    "checkpoint_steps",
    "covariance_sums",
    "coverage",
    "covered_layers",
    "cross_entropy",
    "eigenbases",
    "eigenbases_from_tensors",
    "eigenbases_to_tensors",
    "first_tail_step",
    "get_objective",
    "has_batchnorm",
    "influence_injection",
    "influence_spectrum",
    "layer_forms",
    "load_weights",
    "mean_gradient_sums",
    "prepare_segment",
    "query_filters",
    "query_gradients",
    "reestimate_batchnorm",
    "restore_weights",
    "save_weights",
    "score_batch",
    "score_rows",
    "source_injection",
    "source_spectrum",
    "source_transport",
    "spectrum_sums",
    "squared_error",
    "weights_path",
    "write_trajectory",
]
