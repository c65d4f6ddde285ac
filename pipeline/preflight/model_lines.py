"""What `winnow check` says of the model: how much of it attribution covers, what its layers cost, and the trial."""

from __future__ import annotations

from torch import nn

from pipeline.attribution.model.calls import Inputs
from pipeline.attribution.model.capture import Coverage, covered_layers
from pipeline.attribution.model.coverage import WELL_COVERED
from pipeline.attribution.scores.form_choice import layer_forms
from pipeline.config import AuditConfig
from pipeline.preflight.estimate import gradient_points, is_preconditioned
from pipeline.preflight.result import OK, CheckLine, LayerCost
from pipeline.text import words
from pipeline.training.trial import FEWEST_EPOCHS, MOST_EPOCHS, USUAL_EPOCHS, TrialPlan

NAMED = 3  # at most so many parameters are named


def model_line(name: str, covered: Coverage) -> CheckLine:
    share = words.percent(covered.share, 0)
    text = f"{name}, {_parameter_count(covered.total)} parameters, {share} covered by attribution"
    if covered.share >= WELL_COVERED:
        return CheckLine("model", text, OK)
    more = len(covered.uncovered) - NAMED
    left_out = ", ".join(covered.uncovered[:NAMED]) + (f" and {words.count(more)} more" if more > 0 else "")
    return CheckLine(
        "model",
        text,
        f"warning: influence through {left_out} is not seen ({', '.join(covered.types)}); use Linear, Conv1d, "
        "Conv2d, Embedding, MultiheadAttention and normalisation layers",
    )


def approximated_lines(covered: Coverage) -> list[CheckLine]:
    """What is coarser because a layer has many outputs; `attribution.widest_outputs` is the limit."""
    return [CheckLine("", text, OK) for text in covered.approximated]


def unseen_lines(names: list[str]) -> list[CheckLine]:
    if not names:
        return []
    text = f"{', '.join(names[:NAMED])}{' and more' if len(names) > NAMED else ''} used outside the layer's own call"
    hint = "influence through that use is not seen; call the module instead of using its weight"
    return [CheckLine("", text, f"warning: {hint}")]


def trial_text(plan: TrialPlan, config: AuditConfig) -> str:
    """What the trial will try, and what the other lines assume as long as it has not chosen."""
    parts = [f"{words.plural(len(plan.models), 'model')} ({', '.join(plan.models)})"]
    rates = [f"{rate:g}" for rate in plan.rates]
    parts.append(
        f"learning rates {rates[0]} to {rates[-1]}" if len(rates) > 1 else f"learning rate {rates[0]}"
    )
    if config.training.epochs == "auto":
        parts.append(f"{FEWEST_EPOCHS} to {MOST_EPOCHS} epochs")
    tried = f"{', '.join(parts)}, on {words.rows(plan.rows)} of train"
    if config.training.epochs == "auto":
        tried += f"; the times are for {words.plural(USUAL_EPOCHS, 'epoch')}"
    return tried


def layer_costs(model: nn.Module, inputs: Inputs, config: AuditConfig) -> list[LayerCost]:
    """The cost of every covered layer, from a pass over a few rows."""
    parameters = {layer.name: layer.parameters for layer in covered_layers(model)}
    forms = layer_forms(
        model,
        inputs,
        checkpoints=gradient_points(config),
        segments=config.attribution.segments,
        tolerance=config.attribution.self_influence_tolerance,
        preconditioned=is_preconditioned(config),
        widest_outputs=config.attribution.widest_outputs,
    )
    return [LayerCost(f.layer, parameters[f.layer], f.form, f.operations, f.bytes) for f in forms]


def _parameter_count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 100_000 else words.count(number)
