"""Training data attribution for torch models: SOURCE and influence functions with EK-FAC curvature.

Needs torch and safetensors alone. Record a trajectory while training, load it, attribute:

    recorder = TrajectoryRecorder(
        model, optimizer, "trajectory/", steps=total_steps, train_rows=rows, batch_size=batch_size
    )
    for inputs, labels in loader:
        ...
        optimizer.step()
        recorder.step(loss=loss)

    scores = attribute(model, Trajectory.load("trajectory/"), train=train_batches, query=validation_batches)
    scores.self_influence, scores.harm      # nats; harm > 0: removing the row lowers the mean query loss

The method is that of Bae, Lin, Lorraine, Grosse, "Training Data Attribution via Approximate Unrolled
Differentiation" (arXiv 2405.12186).

Public names are loaded on first use, so that the table of methods can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.attribution.callbacks.recording import record_training as record_training
    from pipeline.attribution.curvature.eigenbases import eigenbases as eigenbases
    from pipeline.attribution.curvature.eigenbases import eigenbases_from_tensors as eigenbases_from_tensors
    from pipeline.attribution.curvature.eigenbases import eigenbases_to_tensors as eigenbases_to_tensors
    from pipeline.attribution.curvature.factor_sums import FactorSums as FactorSums
    from pipeline.attribution.curvature.factor_sums import add_tensors as add_tensors
    from pipeline.attribution.curvature.factors import covariance_sums as covariance_sums
    from pipeline.attribution.curvature.factors import eigenvalue_sums as eigenvalue_sums
    from pipeline.attribution.curvature.fit import prepare_segment as prepare_segment
    from pipeline.attribution.curvature.preconditioners import Preconditioner as Preconditioner
    from pipeline.attribution.curvature.preconditioners import (
        segment_preconditioners as segment_preconditioners,
    )
    from pipeline.attribution.curvature.segment_functions import Spectrum as Spectrum
    from pipeline.attribution.curvature.segment_functions import influence_injection as influence_injection
    from pipeline.attribution.curvature.segment_functions import influence_spectrum as influence_spectrum
    from pipeline.attribution.curvature.segment_functions import source_injection as source_injection
    from pipeline.attribution.curvature.segment_functions import source_spectrum as source_spectrum
    from pipeline.attribution.curvature.segment_functions import source_transport as source_transport
    from pipeline.attribution.curvature.segments import PreparedSegment as PreparedSegment
    from pipeline.attribution.curvature.segments import query_filters as query_filters
    from pipeline.attribution.errors import AttributionError as AttributionError
    from pipeline.attribution.errors import CheckpointError as CheckpointError
    from pipeline.attribution.errors import NonFiniteError as NonFiniteError
    from pipeline.attribution.errors import OptimizerError as OptimizerError
    from pipeline.attribution.front_door import attribute as attribute
    from pipeline.attribution.gradients.layer_gradients import Eigenbasis as Eigenbasis
    from pipeline.attribution.gradients.shared_inputs import SharedInputs as SharedInputs
    from pipeline.attribution.layers import ModuleRule as ModuleRule
    from pipeline.attribution.layers import register as register
    from pipeline.attribution.methods import Method as Method
    from pipeline.attribution.methods import register_method as register_method
    from pipeline.attribution.model.batchnorm import has_batchnorm as has_batchnorm
    from pipeline.attribution.model.batchnorm import reestimate_batchnorm as reestimate_batchnorm
    from pipeline.attribution.model.capture import Coverage as Coverage
    from pipeline.attribution.model.capture import LayerInfo as LayerInfo
    from pipeline.attribution.model.capture import capture as capture
    from pipeline.attribution.model.capture import coverage as coverage
    from pipeline.attribution.model.capture import covered_layers as covered_layers
    from pipeline.attribution.objectives import Objective as Objective
    from pipeline.attribution.objectives import binary_cross_entropy as binary_cross_entropy
    from pipeline.attribution.objectives import check_objective as check_objective
    from pipeline.attribution.objectives import cross_entropy as cross_entropy
    from pipeline.attribution.objectives import get_objective as get_objective
    from pipeline.attribution.objectives import gradients_of_drawn_labels as gradients_of_drawn_labels
    from pipeline.attribution.objectives import no_exact_gradients as no_exact_gradients
    from pipeline.attribution.objectives import no_margins as no_margins
    from pipeline.attribution.objectives import signed_columns as signed_columns
    from pipeline.attribution.objectives import squared_error as squared_error
    from pipeline.attribution.queries.gradients import mean_gradient_sums as mean_gradient_sums
    from pipeline.attribution.queries.gradients import query_gradients as query_gradients
    from pipeline.attribution.queries.refined import RefinedDirection as RefinedDirection
    from pipeline.attribution.queries.refined import RefinedSettings as RefinedSettings
    from pipeline.attribution.queries.refined import refined_direction as refined_direction
    from pipeline.attribution.queries.tokens import token_queries as token_queries
    from pipeline.attribution.rows.batch import Batch as Batch
    from pipeline.attribution.rows.derivatives import RowSource as RowSource
    from pipeline.attribution.rows.derivatives import row_source as row_source
    from pipeline.attribution.rows.stages import StageData as StageData
    from pipeline.attribution.scores.ensembles import average as average
    from pipeline.attribution.scores.ensembles import dropout_masks as dropout_masks
    from pipeline.attribution.scores.form_choice import FormChoice as FormChoice
    from pipeline.attribution.scores.form_choice import layer_forms as layer_forms
    from pipeline.attribution.scores.relabelling import relabel_effects as relabel_effects
    from pipeline.attribution.scores.rows import BatchScores as BatchScores
    from pipeline.attribution.scores.rows import score_batch as score_batch
    from pipeline.attribution.scores.rows import score_rows as score_rows
    from pipeline.attribution.scores.table import Scores as Scores
    from pipeline.attribution.trajectory.optimizers import OptimizerSettings as OptimizerSettings
    from pipeline.attribution.trajectory.optimizers import ParameterGroup as ParameterGroup
    from pipeline.attribution.trajectory.recorder import TrajectoryRecorder as TrajectoryRecorder
    from pipeline.attribution.trajectory.recorder import checkpoint_steps as checkpoint_steps
    from pipeline.attribution.trajectory.recorder import first_tail_step as first_tail_step
    from pipeline.attribution.trajectory.trajectory import Checkpoint as Checkpoint
    from pipeline.attribution.trajectory.trajectory import Segment as Segment
    from pipeline.attribution.trajectory.trajectory import TrainingStage as TrainingStage
    from pipeline.attribution.trajectory.trajectory import Trajectory as Trajectory
    from pipeline.attribution.trajectory.trajectory import weights_path as weights_path
    from pipeline.attribution.trajectory.trajectory import write_trajectory as write_trajectory
    from pipeline.attribution.trajectory.weights import RunningMean as RunningMean
    from pipeline.attribution.trajectory.weights import load_weights as load_weights
    from pipeline.attribution.trajectory.weights import restore_weights as restore_weights
    from pipeline.attribution.trajectory.weights import save_weights as save_weights
    from pipeline.attribution.unrolling.replay import Replay as Replay
    from pipeline.attribution.unrolling.replay import ReplayError as ReplayError
    from pipeline.attribution.unrolling.replay_recorder import ReplayRecorder as ReplayRecorder
    from pipeline.attribution.unrolling.unrolled import UnrolledHarm as UnrolledHarm
    from pipeline.attribution.unrolling.unrolled import unrolled_cost as unrolled_cost
    from pipeline.attribution.unrolling.unrolled import unrolled_harm as unrolled_harm
    from pipeline.attribution.unrolling.unrolled_gauss_newton import WindowMeans as WindowMeans
    from pipeline.attribution.unrolling.unrolled_gauss_newton import (
        unrolled_gauss_newton_harm as unrolled_gauss_newton_harm,
    )
    from pipeline.attribution.unrolling.window_recorder import WindowRecorder as WindowRecorder

_WHERE = {
    "AttributionError": "errors",
    "Batch": "rows.batch",
    "BatchScores": "scores.rows",
    "Checkpoint": "trajectory.trajectory",
    "CheckpointError": "errors",
    "Preconditioner": "curvature.preconditioners",
    "Coverage": "model.capture",
    "Eigenbasis": "gradients.layer_gradients",
    "FactorSums": "curvature.factor_sums",
    "FormChoice": "scores.form_choice",
    "LayerInfo": "model.capture",
    "Method": "methods",
    "ModuleRule": "layers",
    "NonFiniteError": "errors",
    "Objective": "objectives",
    "OptimizerError": "errors",
    "OptimizerSettings": "trajectory.optimizers",
    "ParameterGroup": "trajectory.optimizers",
    "WindowRecorder": "unrolling.window_recorder",
    "WindowMeans": "unrolling.unrolled_gauss_newton",
    "PreparedSegment": "curvature.segments",
    "RefinedDirection": "queries.refined",
    "RefinedSettings": "queries.refined",
    "Replay": "unrolling.replay",
    "ReplayError": "unrolling.replay",
    "ReplayRecorder": "unrolling.replay_recorder",
    "RowSource": "rows.derivatives",
    "RunningMean": "trajectory.weights",
    "Scores": "scores.table",
    "Segment": "trajectory.trajectory",
    "SharedInputs": "gradients.shared_inputs",
    "Spectrum": "curvature.segment_functions",
    "TrainingStage": "trajectory.trajectory",
    "StageData": "rows.stages",
    "Trajectory": "trajectory.trajectory",
    "TrajectoryRecorder": "trajectory.recorder",
    "UnrolledHarm": "unrolling.unrolled",
    "add_tensors": "curvature.factor_sums",
    "attribute": "front_door",
    "average": "scores.ensembles",
    "binary_cross_entropy": "objectives",
    "capture": "model.capture",
    "check_objective": "objectives",
    "checkpoint_steps": "trajectory.recorder",
    "covariance_sums": "curvature.factors",
    "coverage": "model.capture",
    "covered_layers": "model.capture",
    "cross_entropy": "objectives",
    "dropout_masks": "scores.ensembles",
    "eigenbases": "curvature.eigenbases",
    "eigenbases_from_tensors": "curvature.eigenbases",
    "eigenbases_to_tensors": "curvature.eigenbases",
    "first_tail_step": "trajectory.recorder",
    "get_objective": "objectives",
    "gradients_of_drawn_labels": "objectives",
    "has_batchnorm": "model.batchnorm",
    "influence_injection": "curvature.segment_functions",
    "influence_spectrum": "curvature.segment_functions",
    "layer_forms": "scores.form_choice",
    "load_weights": "trajectory.weights",
    "mean_gradient_sums": "queries.gradients",
    "no_exact_gradients": "objectives",
    "no_margins": "objectives",
    "prepare_segment": "curvature.fit",
    "query_filters": "curvature.segments",
    "query_gradients": "queries.gradients",
    "record_training": "callbacks.recording",
    "reestimate_batchnorm": "model.batchnorm",
    "refined_direction": "queries.refined",
    "register_method": "methods",
    "register": "layers",
    "relabel_effects": "scores.relabelling",
    "restore_weights": "trajectory.weights",
    "row_source": "rows.derivatives",
    "save_weights": "trajectory.weights",
    "score_batch": "scores.rows",
    "score_rows": "scores.rows",
    "segment_preconditioners": "curvature.preconditioners",
    "signed_columns": "objectives",
    "source_injection": "curvature.segment_functions",
    "source_spectrum": "curvature.segment_functions",
    "source_transport": "curvature.segment_functions",
    "eigenvalue_sums": "curvature.factors",
    "squared_error": "objectives",
    "token_queries": "queries.tokens",
    "unrolled_cost": "unrolling.unrolled",
    "unrolled_gauss_newton_harm": "unrolling.unrolled_gauss_newton",
    "unrolled_harm": "unrolling.unrolled",
    "weights_path": "trajectory.trajectory",
    "write_trajectory": "trajectory.trajectory",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
