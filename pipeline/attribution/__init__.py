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

from pipeline.attribution.attribute import attribute
from pipeline.attribution.curvature.eigenbases import (
    eigenbases,
    eigenbases_from_tensors,
    eigenbases_to_tensors,
)
from pipeline.attribution.curvature.factor_sums import FactorSums, add_tensors
from pipeline.attribution.curvature.factors import covariance_sums, spectrum_sums
from pipeline.attribution.curvature.fit import prepare_segment
from pipeline.attribution.curvature.preconditioners import Conditioner, segment_conditioners
from pipeline.attribution.curvature.segment_functions import (
    Spectrum,
    influence_injection,
    influence_spectrum,
    source_injection,
    source_spectrum,
    source_transport,
)
from pipeline.attribution.curvature.segments import PreparedSegment, query_filters
from pipeline.attribution.errors import AttributionError, CheckpointError, NonFiniteError, OptimizerError
from pipeline.attribution.gradients.layer_gradients import Eigenbasis
from pipeline.attribution.gradients.shared_inputs import SharedInputs
from pipeline.attribution.layers import ModuleRule, register
from pipeline.attribution.model.batchnorm import has_batchnorm, reestimate_batchnorm
from pipeline.attribution.model.capture import Coverage, LayerInfo, capture, coverage, covered_layers
from pipeline.attribution.objectives import (
    Objective,
    binary_cross_entropy,
    check_objective,
    cross_entropy,
    get_objective,
    gradients_of_drawn_labels,
    no_exact_gradients,
    no_margins,
    signed_columns,
    squared_error,
)
from pipeline.attribution.queries.gradients import mean_gradient_sums, query_gradients
from pipeline.attribution.queries.refined import RefinedDirection, RefinedSettings, refined_direction
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.rows.derivatives import RowSource, row_source
from pipeline.attribution.rows.stages import StageData
from pipeline.attribution.scores.ensembles import average, dropout_masks
from pipeline.attribution.scores.forms import FormChoice, layer_forms
from pipeline.attribution.scores.relabelling import relabel_effects
from pipeline.attribution.scores.rows import BatchScores, score_batch, score_rows
from pipeline.attribution.scores.table import Scores
from pipeline.attribution.trajectory.optimizers import OptimizerSettings, ParameterGroup
from pipeline.attribution.trajectory.recorder import TrajectoryRecorder, checkpoint_steps, first_tail_step
from pipeline.attribution.trajectory.trajectory import (
    Checkpoint,
    Segment,
    Stage,
    Trajectory,
    weights_path,
    write_trajectory,
)
from pipeline.attribution.trajectory.weights import RunningMean, load_weights, restore_weights, save_weights
from pipeline.attribution.unrolling.piece_recorder import PieceRecorder
from pipeline.attribution.unrolling.replay import Replay, ReplayError
from pipeline.attribution.unrolling.replay_recorder import ReplayRecorder
from pipeline.attribution.unrolling.unrolled import UnrolledHarm, unrolled_cost, unrolled_harm
from pipeline.attribution.unrolling.unrolled_gauss_newton import Pieces, unrolled_gauss_newton_harm

__all__ = [
    "AttributionError",
    "Batch",
    "BatchScores",
    "Checkpoint",
    "CheckpointError",
    "Conditioner",
    "Coverage",
    "Eigenbasis",
    "FactorSums",
    "FormChoice",
    "LayerInfo",
    "ModuleRule",
    "NonFiniteError",
    "Objective",
    "OptimizerError",
    "OptimizerSettings",
    "ParameterGroup",
    "PieceRecorder",
    "Pieces",
    "PreparedSegment",
    "RefinedDirection",
    "RefinedSettings",
    "Replay",
    "ReplayError",
    "ReplayRecorder",
    "RowSource",
    "RunningMean",
    "Scores",
    "Segment",
    "SharedInputs",
    "Spectrum",
    "Stage",
    "StageData",
    "Trajectory",
    "TrajectoryRecorder",
    "UnrolledHarm",
    "add_tensors",
    "attribute",
    "average",
    "binary_cross_entropy",
    "capture",
    "check_objective",
    "checkpoint_steps",
    "covariance_sums",
    "coverage",
    "covered_layers",
    "cross_entropy",
    "dropout_masks",
    "eigenbases",
    "eigenbases_from_tensors",
    "eigenbases_to_tensors",
    "first_tail_step",
    "get_objective",
    "gradients_of_drawn_labels",
    "has_batchnorm",
    "influence_injection",
    "influence_spectrum",
    "layer_forms",
    "load_weights",
    "mean_gradient_sums",
    "no_exact_gradients",
    "no_margins",
    "prepare_segment",
    "query_filters",
    "query_gradients",
    "reestimate_batchnorm",
    "refined_direction",
    "register",
    "relabel_effects",
    "restore_weights",
    "row_source",
    "save_weights",
    "score_batch",
    "score_rows",
    "segment_conditioners",
    "signed_columns",
    "source_injection",
    "source_spectrum",
    "source_transport",
    "spectrum_sums",
    "squared_error",
    "unrolled_cost",
    "unrolled_gauss_newton_harm",
    "unrolled_harm",
    "weights_path",
    "write_trajectory",
]
