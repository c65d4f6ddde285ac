"""`winnow check`: validates all data, tries the model, and estimates the time, memory and findings of an audit."""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from torch import nn

from pipeline.attribution.model.calls import Inputs
from pipeline.attribution.model.capture import Coverage, coverage, covered_layers
from pipeline.attribution.model.coverage import WELL_COVERED
from pipeline.attribution.model.unseen import unseen_gradients
from pipeline.attribution.scores.forms import layer_forms
from pipeline.config import AuditConfig
from pipeline.data.canaries import draw_canaries
from pipeline.data.checks import content_in_two_roles, duplicates
from pipeline.data.encoded import EncodedData
from pipeline.data.files import find_files, open_shards
from pipeline.data.named_rows import trusted_rows
from pipeline.data.prepare import create_encoding, survey_rows, write_chunks
from pipeline.data.survey import Survey
from pipeline.detection.noise.validation_doubts import FEW_ROWS
from pipeline.detection.people.answers import ReviewAnswers
from pipeline.detection.rules.trusted import needed_rows
from pipeline.models import model_name
from pipeline.models.validate import check_model
from pipeline.preflight import announce
from pipeline.preflight.columns import suspicious_features
from pipeline.preflight.estimate import (
    Sizes,
    fidelity_retrainings,
    gradient_points,
    is_preconditioned,
    measure,
    retrainings,
    stage_seconds,
)
from pipeline.runs.context import AuditContext, Progress, silent
from pipeline.runs.directory import RUNS, RunDirectory, write_text
from pipeline.text import words
from pipeline.training.batches import Selection
from pipeline.training.recipe import make_recipe
from pipeline.training.recorded import check_recorded, load_recorded
from pipeline.training.replayed import check_replayable
from pipeline.training.setup import deterministic, set_up
from pipeline.training.trial import (
    FEWEST_EPOCHS,
    MOST_EPOCHS,
    USUAL_EPOCHS,
    TrialPlan,
    assumed,
    plan_trial,
)
from pipeline.training.tried import count_drawn
from pipeline.verification import unrolled
from pipeline.verification.statistics import DISAGREEMENT, power
from pipeline.workers.budgets import budgets
from pipeline.workers.cluster import Workers
from pipeline.workers.precision import require_precision

SAMPLE_ROWS = 50_000  # so many train rows are encoded for the trial; all rows are validated
WORKER_BYTES = 450 * 2**20  # memory of a worker process with its libraries and without data
FEWEST_HOLDOUT = 20  # with fewer rows the power of verification is not shown
NAMED = 3  # at most so many parameters are named
OK, TOO_MUCH = "ok", "error: "


@dataclass(frozen=True)
class CheckLine:
    """One line of the output; `status` is empty, `ok`, or begins with `warning: ` or `error: ` and says what to do."""

    name: str
    text: str
    status: str = ""


@dataclass(frozen=True)
class LayerCost:
    """How attribution computes one layer.

    Attributes:
        layer: its name.
        parameters: how many parameters attribution covers in it.
        form: the form of its gradients in self-influence, the one with the fewest operations and bytes.
        operations, bytes: for one row, at all checkpoints.
    """

    layer: str
    parameters: int
    form: str
    operations: int
    bytes: int


@dataclass(frozen=True)
class Preflight:
    """The result of `check`; it is not `ok` if the audit can't run with this config.

    Attributes:
        lines: the output.
        layers: the cost of each covered layer.
        seconds: stage → estimated seconds.
    """

    lines: list[CheckLine]
    layers: list[LayerCost] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not any(line.status.startswith(TOO_MUCH) for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        lines, layers = ([asdict(each) for each in found] for found in (self.lines, self.layers))
        return {"ok": self.ok, "lines": lines, "layers": layers, "seconds": self.seconds}


def check(config: AuditConfig, progress: Progress = silent) -> Preflight:
    """Read and validate all rows, build the model, time a few steps, and estimate the rest.

    All files that it writes are removed at the end.

    Args:
        config: the config of the audit.
        progress: called while rows are read.

    Raises:
        InputError: the config or the data is wrong, as in the audit.
    """
    require_precision(config)
    with tempfile.TemporaryDirectory(prefix="winnow-check-") as folder, Workers(config.compute) as workers:
        run = RunDirectory(Path(folder))
        write_text(run / "config.yaml", config.to_yaml())
        context = AuditContext(config, run, workers, progress)
        begin = time.perf_counter()
        shards = open_shards(find_files(config.data))
        encoding = create_encoding(shards, config)
        survey = survey_rows(shards, encoding, context)
        validation = time.perf_counter() - begin
        encoding.save(run / "encoding.json")
        asked, config = config, assumed(config, encoding)
        write_text(run / "config.yaml", config.to_yaml())
        draw_canaries(config, encoding.task, survey.counts()["train"], encoding.outputs)
        rules = rule_lines(config, run.path)
        begin = time.perf_counter()
        chunks = write_chunks(sample(survey), encoding, context)
        encoding_seconds = time.perf_counter() - begin
        rows = survey.counts()
        if config.training.trajectory is not None:
            recorded = load_recorded(config.training.trajectory)
            config = config.with_changes({"training.checkpoints": len(recorded.checkpoints)})
        recipe = make_recipe(config.training, rows["train"], config.training.seed)
        data = EncodedData.open(run.path)
        with deterministic():
            setup = set_up(run.path, Selection(), config.training.seed, recipe)
            few = setup.data.load(chunks[0]).select(slice(0, 4)).to(setup.device)
            check_model(setup.model, data.encoding, few)
            check_replayable(config, setup.model, rows, data.nbytes("train") // data.count("train"))
            if config.training.trajectory is not None:
                check_recorded(config, setup.model, rows["train"])
            covered = coverage(setup.model)
            unseen = unseen_gradients(setup.model, few.inputs)
            layers = _layer_costs(setup.model, few.inputs, config)
        count = workers.count() if config.compute.scheduler else workers.local_count()
        costs = measure(workers, count, run.path, recipe)
        encoded = sum(chunk.rows for chunk in chunks)
        costs = replace(costs, validation=validation, encoded_row=encoding_seconds / max(1, encoded))
        sizes = Sizes(
            rows=rows,
            row_bytes=data.nbytes("train") // data.count("train"),
            parameters=covered.total,
            factor_numbers=sum(layer.factor_numbers for layer in covered_layers(setup.model)),
            source_bytes=sum(shard.size for shard in shards),
            workers=count,
            kinds=frozenset(feature.judged_as for feature in data.encoding.features),
            classes=len(data.encoding.classes),
        )
        name = model_name(config.model, data.encoding)
        trial = None
        if asked.left_to_trial:
            drawn = count_drawn(rows["train"], encoding.row_bytes, config.training.memory_budget)
            trial = plan_trial(asked, encoding, drawn)
        sliced = announce.slices(survey, config.compute.chunk_rows)
    lines = _data_lines(config, survey) + [CheckLine("slices", text, status or OK) for text, status in sliced]
    lines += [
        CheckLine("" if place else "features", *said)
        for place, said in enumerate(suspicious_features(shards, encoding))
    ]
    lines += [*rules, model_line(name, covered), *unseen_lines(unseen)]
    lines += [] if trial is None else [CheckLine("will try", trial_text(trial, asked), OK)]
    lines += [
        CheckLine("" if place else "labels", *said)
        for place, said in enumerate(announce.labels(config, rows))
    ]
    seconds = stage_seconds(config, sizes, costs, recipe)
    if trial is not None:
        seconds["train"] += trial.most_steps * costs.step / min(count, trial.folds * trial.finalists)
    lines += [time_line(config, sizes, seconds), memory_line(config, sizes), disk_line(config, sizes)]
    measuring = rows["holdout"]
    if not (config.data.labels_are_clean("validation") or config.data.labels_are_clean("holdout")):
        measuring += rows["validation"]
    lines += _power_lines(config, encoding.task, measuring)
    lines.append(CheckLine("will say", announce.findings(config, encoding.task, rows)))
    return Preflight(lines, layers, seconds)


def _power_lines(config: AuditConfig, task: str, measuring: int) -> list[CheckLine]:
    """The gain of accuracy that verification would detect, by the number of seeds and of measuring rows."""
    verification = config.verification
    if task != "classification" or not verification.seeds or measuring < FEWEST_HOLDOUT:
        return []
    gain = power(measuring, verification.seeds, arms=len(verification.arms) + 1)
    seeds, rows = words.plural(verification.seeds, "seed"), words.plural(measuring, "row")
    said = f"with {seeds} and {rows} to measure on, a gain of "
    return [
        CheckLine(
            "will see",
            f"{said}{100 * gain:.1f} points of accuracy in 80 % of the cases, where cleaning changes the answer to "
            f"{words.percent(DISAGREEMENT, 0)} of the rows",
        )
    ]


def _layer_costs(model: nn.Module, inputs: Inputs, config: AuditConfig) -> list[LayerCost]:
    """The cost of every covered layer, from a pass over a few rows."""
    parameters = {layer.name: layer.parameters for layer in covered_layers(model)}
    forms = layer_forms(
        model,
        inputs,
        checkpoints=gradient_points(config),
        segments=config.attribution.segments,
        tolerance=config.attribution.self_influence_tolerance,
        preconditioned=is_preconditioned(config),
    )
    return [LayerCost(f.layer, parameters[f.layer], f.form, f.operations, f.bytes) for f in forms]


def sample(survey: Survey) -> Survey:
    """A copy of the survey with only as many shards as are needed for SAMPLE_ROWS train rows."""
    part, found = copy.copy(survey), 0
    part.shards = []
    for shard in survey.shards:
        train = int((shard.roles == 0).sum())
        if train and found < SAMPLE_ROWS:
            part.shards.append(shard)
            found += train
    return part


def _data_lines(config: AuditConfig, survey: Survey) -> list[CheckLine]:
    rows, shards = survey.counts(), survey.shards
    repeated, shared = duplicates(shards), content_in_two_roles(shards)
    total = sum(rows.values()) + survey.dropped
    chunks = sum(-(-kept.shard.rows // config.compute.chunk_rows) for kept in shards)
    text = (
        f"{words.rows(total)} in {words.plural(len(shards), 'shard')}, about {words.plural(chunks, 'chunk')}"
    )
    lines = [CheckLine("data", text, OK)]
    roles = ", ".join(f"{words.count(count)} {role}" for role, count in rows.items())
    lines.append(CheckLine("roles", roles, role_status(config, rows)))
    if repeated["groups"] or repeated["conflicting_rows"]:
        status = "warning: they are reported as duplicate-conflict" if repeated["conflicting_rows"] else OK
        several = words.count(repeated["conflicting_rows"])
        text = f"{words.rows(repeated['rows'])} occur more than once, {several} with several labels"
        lines.append(CheckLine("duplicates", text, status))
    if shared:
        text = f"{words.rows(shared)} {'stands' if shared == 1 else 'stand'} in two roles"
        lines.append(
            CheckLine(
                "", text, "warning: they make validation and holdout too easy; take them out of one role"
            )
        )
    if survey.dropped:
        lines.append(
            CheckLine(
                "", f"{words.rows(survey.dropped)} without a label", "warning: they take no part; label them"
            )
        )
    return lines


def rule_lines(config: AuditConfig, run_path: Path) -> list[CheckLine]:
    """Lines about the files and canaries that the rule of detection uses.

    Raises:
        InputError: a file is missing or names other rows.
    """
    detection, lines = config.detection, []
    if detection.trusted is not None:
        trusted, needed = len(trusted_rows(config, run_path)), needed_rows(detection.false_flag_rate)
        rate = words.percent(detection.false_flag_rate)
        few = f"warning: {words.count(needed)} are needed for a false-flag rate of {rate}, or nothing is removed"
        lines.append(CheckLine("trusted", words.rows(trusted), OK if trusted >= needed else few))
    if detection.answers is not None:
        answered = len(ReviewAnswers.load(Path(detection.answers)).verdicts)
        lines.append(CheckLine("answers", f"{words.count(answered)} given", OK))
    if detection.canaries:
        text = f"{words.plural(detection.canaries, 'label')} will be flipped on purpose, in the run alone"
        lines.append(
            CheckLine(
                "canaries", text, "warning: such a run exports nothing; leave them out to clean the data"
            )
        )
    return lines


def role_status(config: AuditConfig, rows: dict[str, int]) -> str:
    if not rows["holdout"] and config.verification.seeds:
        return "warning: without holdout rows nothing can be proved; give data.holdout, or data.split"
    if not rows["validation"]:
        return "warning: without validation rows there is no harm; give data.validation, or data.split"
    if rows["validation"] < FEW_ROWS:
        return f"warning: {rows['validation']} validation rows say little about harm and noise; give {FEW_ROWS} or more"
    return OK


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


def unseen_lines(names: list[str]) -> list[CheckLine]:
    if not names:
        return []
    text = f"{', '.join(names[:NAMED])}{' and more' if len(names) > NAMED else ''} used outside the layer's own call"
    hint = "influence through that use is not seen; call the module instead of using its weight"
    return [CheckLine("", text, f"warning: {hint}")]


def time_line(config: AuditConfig, sizes: Sizes, stages: dict[str, float]) -> CheckLine:
    """The line about time; `stages` has the seconds of each stage, from `stage_seconds`."""
    shown = [f"{name} {words.duration(seconds)}" for name, seconds in stages.items()]
    count = retrainings(config)
    made: list[str] = []
    if count:
        further = fidelity_retrainings(config, sizes.rows["validation"])
        more = f" and {words.count(further)} for fidelity" if further else ""
        made.append(f"{words.plural(count, 'retraining')}{more}")
    if config.verification.unrolled:
        cost = unrolled.trainings(config.training)
        made.append(f"exact differentiation, as long as {cost:.1f} trainings")
    if made:
        shown[-1] += f" ({'; '.join(made)})"
    return CheckLine("will take", f"{' · '.join(shown)}   on {words.plural(sizes.workers, 'worker')}")


def memory_line(config: AuditConfig, sizes: Sizes) -> CheckLine:
    """The line about memory: the larger of what a worker holds in training and in attribution.

    Training holds the rows and a model. Attribution holds factors and checkpoints.
    """
    model, factors = 4 * sizes.parameters, 4 * sizes.factor_numbers
    training = min(sizes.rows["train"] * sizes.row_bytes, config.training.memory_budget) + 4 * model
    kept = max(
        model, min(budgets(config.compute.memory_per_worker).weights, config.training.checkpoints * model)
    )
    attribution = config.attribution.segments * (factors + model) + 2 * (2 * factors + model) + kept
    needed = WORKER_BYTES + max(training, attribution)
    text = f"{words.size(needed)} of memory per worker"
    if needed > config.compute.memory_per_worker:
        return CheckLine(
            "will need", text, f"warning: set compute.memory_per_worker to {words.size(1.3 * needed)} or more"
        )
    if not config.compute.scheduler and needed * sizes.workers > psutil.virtual_memory().available:
        free = words.size(psutil.virtual_memory().available)
        return CheckLine(
            "will need", text, f"warning: {free} are free in all; lower compute.workers from {sizes.workers}"
        )
    return CheckLine("will need", text, OK)


def disk_line(config: AuditConfig, sizes: Sizes) -> CheckLine:
    """The line about disk: encoded rows, checkpoints with momentum, factors and their sums, dynamics, the export."""
    model, rows = 4 * sizes.parameters, sum(sizes.rows.values())
    per_epoch = 48 * (2 * sizes.rows["train"] + 3 * sizes.rows["validation"])
    needed = (
        rows * sizes.row_bytes
        + 2 * (config.training.checkpoints + 2) * model
        + 2 * config.attribution.segments * (4 * sizes.factor_numbers + model)
        + config.training.known_epochs * per_epoch
        + sizes.rows["train"] * (8 * config.training.checkpoints + 200)
        + sizes.source_bytes
    )
    place = next(path for path in (RUNS.resolve(), *RUNS.resolve().parents) if path.exists())
    free, text = shutil.disk_usage(place).free, f"{words.size(needed)} of disk"
    if needed > free:
        return CheckLine(
            "", text, f"{TOO_MUCH}only {words.size(free)} are free in {place}; free some, or use --output"
        )
    return CheckLine("", text, OK)


def _parameter_count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 100_000 else words.count(number)
