"""The pre-flight: validate all data, try the model, and say what an audit will take, need and find."""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from pipeline import announce
from pipeline.attribution.capture import Coverage, Inputs, coverage, covered_layers
from pipeline.attribution.conditioners import Conditioner
from pipeline.attribution.coverage import WELL_COVERED
from pipeline.attribution.eigenbases import eigenbases
from pipeline.attribution.gradients.forms import layer_forms
from pipeline.attribution.planned import find_method
from pipeline.attribution.prepare import FactorTask, fit_covariances, fit_spectrum
from pipeline.attribution.scores import Batch
from pipeline.attribution.unseen import unseen_gradients
from pipeline.compute.cluster import Workers
from pipeline.compute.precision import require_precision
from pipeline.compute.refine import refined_settings
from pipeline.config import AuditConfig
from pipeline.context import AuditContext, Progress, silent
from pipeline.data.canaries import draw_canaries
from pipeline.data.checks import content_in_two_roles, duplicates
from pipeline.data.encoded import EncodedData
from pipeline.data.files import find_files, open_shards
from pipeline.data.named_rows import trusted_rows
from pipeline.data.prepare import create_encoding, survey_rows, write_chunks
from pipeline.data.survey import Survey
from pipeline.detection.answers import Answers
from pipeline.detection.backdoor.material import MOST_ROWS
from pipeline.detection.doubts import FEW_ROWS
from pipeline.detection.trusted import needed_rows
from pipeline.models import model_name
from pipeline.models.validate import check_model
from pipeline.report import words
from pipeline.run import RUNS, RunDirectory, write_text
from pipeline.training.batches import Selection
from pipeline.training.dynamics import evaluate
from pipeline.training.loop import training_step
from pipeline.training.recipe import Recipe, make_recipe
from pipeline.training.recorded import check_recorded, load_recorded
from pipeline.training.replayed import check_replayable
from pipeline.training.setup import Setup, deterministic, set_up
from pipeline.verification import unrolled
from pipeline.verification.fidelity import controls

SAMPLE_ROWS = 50_000  # train rows that are encoded for the trial; all rows are validated
TRIAL_SECONDS = 1.0
ATTRIBUTE_COST = 2.0  # a row's scores, in units of its second pass for the factors
PRODUCT_COST = 4.0  # a row's product with the Gauss–Newton matrix, in units of its first pass for the factors
SIGNALS_ROW = 2e-4  # seconds on one core for a row's neighbours and signals, by the sample datasets
SEARCH_ROW = 5e-3  # the same for a row that is searched for backdoors
WORKER_BYTES = 450 * 2**20  # a worker process with its libraries, before it has any data
WEIGHTS_KEPT = 16  # checkpoints that a worker holds at most
NAMED = 3  # parameters that are named at most
OK, TOO_MUCH = "ok", "error: "


@dataclass(frozen=True)
class Line:
    """One answer. `status` is empty, `ok`, or begins with `warning: ` or `error: ` and says what to do."""

    name: str
    text: str
    status: str = ""


@dataclass(frozen=True)
class LayerCost:
    """How attribution computes one layer: the form of its gradients in self-influence that takes the fewest
    operations and bytes. Operations and bytes: for one row, at all checkpoints."""

    layer: str
    parameters: int
    form: str
    operations: int
    bytes: int


@dataclass(frozen=True)
class Preflight:
    """What `check` found; not `ok` when the audit can't be run as it is configured."""

    lines: list[Line]
    layers: list[LayerCost] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not any(line.status.startswith(TOO_MUCH) for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        lines, layers = ([asdict(each) for each in found] for found in (self.lines, self.layers))
        return {"ok": self.ok, "lines": lines, "layers": layers}


@dataclass(frozen=True)
class Costs:
    """Seconds on one worker: per training step, and per row of an evaluation and of the two factor passes;
    of all eigendecompositions; of the pass that validated the data."""

    step: float
    evaluated_row: float
    covariance_row: float
    spectrum_row: float
    eigenvectors: float
    validation: float


@dataclass(frozen=True)
class Sizes:
    """What the estimates are made from. `factor_numbers`: in the covered layers' covariances."""

    rows: dict[str, int]
    row_bytes: int
    parameters: int
    factor_numbers: int
    source_bytes: int
    workers: int


def check(config: AuditConfig, progress: Progress = silent) -> Preflight:
    """Read and validate all rows, build the model, time a few steps, and estimate the rest. Nothing that it
    writes stays.

    Raises InputError for whatever is wrong with the config or the data, as the audit would.
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
        draw_canaries(config, encoding.task, survey.counts()["train"], encoding.outputs)
        rules = rule_lines(config, run.path)
        chunks = write_chunks(sample(survey), encoding, context)
        rows = survey.counts()
        if config.training.trajectory is not None:
            recorded = load_recorded(config.training.trajectory)
            config = config.with_changes({"training.checkpoints": len(recorded.checkpoints)})
        recipe = make_recipe(config.training, rows["train"], config.training.seed)
        data = EncodedData.open(run.path)
        with deterministic():
            setup = set_up(run.path, Selection(), config.training.seed, recipe)
            trial = setup.data.load(chunks[0]).select(slice(0, 4)).to(setup.device)
            check_model(setup.model, data.encoding, trial)
            check_replayable(config, setup.model, rows, data.nbytes("train") // data.count("train"))
            if config.training.trajectory is not None:
                check_recorded(config, setup.model, rows["train"])
            covered = coverage(setup.model)
            unseen = unseen_gradients(setup.model, trial.inputs)
            layers = layer_costs(setup.model, trial.inputs, config)
            costs = measure(setup, config, validation)
        sizes = Sizes(
            rows=rows,
            row_bytes=data.nbytes("train") // data.count("train"),
            parameters=covered.total,
            factor_numbers=sum(layer.factor_numbers for layer in covered_layers(setup.model)),
            source_bytes=sum(shard.size for shard in shards),
            workers=workers.count() if config.compute.scheduler else workers.local_count(),
        )
        name = model_name(config.model, data.encoding)
        sliced = announce.slices(survey, config.compute.chunk_rows)
    lines = data_lines(config, survey) + [Line("slices", text, status or OK) for text, status in sliced]
    lines += [*rules, model_line(name, covered), *unseen_lines(unseen)]
    lines += [time_line(config, sizes, costs, recipe), memory_line(config, sizes), disk_line(config, sizes)]
    return Preflight([*lines, Line("will say", announce.findings(config, encoding.task, rows))], layers)


def layer_costs(model: nn.Module, inputs: Inputs, config: AuditConfig) -> list[LayerCost]:
    """Of every covered layer, from a pass over a few rows."""
    parameters = {layer.name: layer.parameters for layer in covered_layers(model)}
    forms = layer_forms(
        model,
        inputs,
        checkpoints=gradient_points(config),
        segments=config.attribution.segments,
        tolerance=config.attribution.self_influence_tolerance,
        conditioned=is_conditioned(config),
    )
    return [LayerCost(f.layer, parameters[f.layer], f.form, f.operations, f.bytes) for f in forms]


def is_conditioned(config: AuditConfig) -> bool:
    """Whether attribution works in the scaled coordinates of Adam, on whole matrices of every row."""
    return config.training.optimizer != "sgd" and find_method(config.attribution.method).conditioned


def gradient_points(config: AuditConfig) -> int:
    """How often a method takes every row's gradients."""
    points = find_method(config.attribution.method).points
    return {"mean": config.attribution.segments, "end": 1}.get(points, config.training.checkpoints)


def sample(survey: Survey) -> Survey:
    """The same survey with as many shards as hold SAMPLE_ROWS train rows."""
    part, found = copy.copy(survey), 0
    part.shards = []
    for shard in survey.shards:
        train = int((shard.roles == 0).sum())
        if train and found < SAMPLE_ROWS:
            part.shards.append(shard)
            found += train
    return part


def measure(setup: Setup, config: AuditConfig, validation: float) -> Costs:
    """Time real steps and passes over one batch of the sample."""
    batches = [
        batch.to(setup.device)
        for _, batch in zip(range(8), setup.rows.batches(setup.recipe.batch_size, 0, 0))
    ]
    turn = 0

    def step() -> None:
        nonlocal turn
        training_step(setup, batches[turn % len(batches)], 0)
        turn += 1

    rows = setup.data.load(setup.data.chunks("train")[0])
    rows = rows.select(slice(0, config.attribution.batch_size)).to(setup.device)
    step_seconds = seconds_of(step)
    evaluated = seconds_of(lambda: evaluate(setup.model, setup.objective, rows, setup.device))
    layers = covered_layers(setup.model) if is_conditioned(config) else []
    scales = {layer.name: Conditioner(torch.full(layer.shape, 2.0), None) for layer in layers}
    labels, batch = config.attribution.labels, Batch(rows.inputs, rows.labels, rows.row_ids)
    task = FactorTask(setup.model, lambda _: None, setup.objective, (0,), 0, labels, scales)
    sums = fit_covariances(task, [batch])
    covariance_seconds = seconds_of(lambda: fit_covariances(task, [batch]))
    begin = time.perf_counter()
    bases = eigenbases(sums)
    eigenvectors = time.perf_counter() - begin
    spectrum = seconds_of(lambda: fit_spectrum(task, [batch], bases))
    return Costs(
        step=step_seconds,
        evaluated_row=evaluated / len(rows),
        covariance_row=covariance_seconds / len(rows),
        spectrum_row=spectrum / len(rows),
        eigenvectors=eigenvectors,
        validation=validation,
    )


def seconds_of(work: Callable[[], Any]) -> float:
    """The mean time of a call, after one to warm up."""
    work()
    count, begin = 0, time.perf_counter()
    while count < 3 or (time.perf_counter() - begin < TRIAL_SECONDS and count < 200):
        work()
        count += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / count


def data_lines(config: AuditConfig, survey: Survey) -> list[Line]:
    rows, shards = survey.counts(), survey.shards
    repeated, shared = duplicates(shards), content_in_two_roles(shards)
    total = sum(rows.values()) + survey.dropped
    chunks = sum(-(-kept.shard.rows // config.compute.chunk_rows) for kept in shards)
    text = (
        f"{words.rows(total)} in {words.plural(len(shards), 'shard')}, about {words.plural(chunks, 'chunk')}"
    )
    lines = [Line("data", text, OK)]
    roles = ", ".join(f"{words.count(count)} {role}" for role, count in rows.items())
    lines.append(Line("roles", roles, role_status(config, rows)))
    if repeated["groups"] or repeated["conflicting_rows"]:
        status = "warning: they are reported as duplicate-conflict" if repeated["conflicting_rows"] else OK
        several = words.count(repeated["conflicting_rows"])
        text = f"{words.rows(repeated['rows'])} occur more than once, {several} with several labels"
        lines.append(Line("duplicates", text, status))
    if shared:
        text = f"{words.rows(shared)} {'stands' if shared == 1 else 'stand'} in two roles"
        lines.append(
            Line("", text, "warning: they make validation and holdout too easy; take them out of one role")
        )
    if survey.dropped:
        lines.append(
            Line(
                "", f"{words.rows(survey.dropped)} without a label", "warning: they take no part; label them"
            )
        )
    return lines


def rule_lines(config: AuditConfig, run_path: Path) -> list[Line]:
    """What the files of the rule hold.

    Raises InputError when one is not there or is about other rows.
    """
    detection, lines = config.detection, []
    if detection.trusted is not None:
        trusted, needed = len(trusted_rows(config, run_path)), needed_rows(detection.false_flag_rate)
        rate = words.percent(detection.false_flag_rate)
        few = f"warning: {words.count(needed)} are needed for a false-flag rate of {rate}, or nothing is removed"
        lines.append(Line("trusted", words.rows(trusted), OK if trusted >= needed else few))
    if detection.answers is not None:
        answered = len(Answers.load(Path(detection.answers)).verdicts)
        lines.append(Line("answers", f"{words.count(answered)} given", OK))
    if detection.canaries:
        text = f"{words.plural(detection.canaries, 'label')} will be flipped on purpose, in the run alone"
        lines.append(
            Line("canaries", text, "warning: such a run exports nothing; leave them out to clean the data")
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


def model_line(name: str, covered: Coverage) -> Line:
    share = words.percent(covered.share, 0)
    text = f"{name}, {parameter_count(covered.total)} parameters, {share} covered by attribution"
    if covered.share >= WELL_COVERED:
        return Line("model", text, OK)
    more = len(covered.uncovered) - NAMED
    left_out = ", ".join(covered.uncovered[:NAMED]) + (f" and {words.count(more)} more" if more > 0 else "")
    return Line(
        "model",
        text,
        f"warning: influence through {left_out} is not seen ({', '.join(covered.types)}); use Linear, Conv1d, "
        "Conv2d, Embedding, MultiheadAttention and normalisation layers",
    )


def unseen_lines(names: list[str]) -> list[Line]:
    if not names:
        return []
    text = f"{', '.join(names[:NAMED])}{' and more' if len(names) > NAMED else ''} used outside the layer's own call"
    hint = "influence through that use is not seen; call the module instead of using its weight"
    return [Line("", text, f"warning: {hint}")]


def time_line(config: AuditConfig, sizes: Sizes, costs: Costs, recipe: Recipe) -> Line:
    stages = stage_seconds(config, sizes, costs, recipe)
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
    return Line("will take", f"{' · '.join(shown)}   on {words.plural(sizes.workers, 'worker')}")


def stage_seconds(config: AuditConfig, sizes: Sizes, costs: Costs, recipe: Recipe) -> dict[str, float]:
    """Estimates per stage; what every audit takes to start and to write is left out."""
    train, validation, holdout = (sizes.rows[role] for role in ("train", "validation", "holdout"))
    epochs = config.training.epochs
    steps = recipe.steps * costs.step
    evaluation = (train + validation) * costs.evaluated_row
    training = steps + epochs * evaluation
    if config.training.trajectory is not None:
        training = min(epochs, config.training.checkpoints) * evaluation
    half = steps / 2 + epochs * (train / 2 + validation) * costs.evaluated_row
    halves = half * 2 / min(2, sizes.workers) if config.detection.halves else 0.0
    passes = gradient_points(config) * train / sizes.workers
    refined = refined_settings(config.attribution).within(train)
    products = refined.iterations * refined.rows / sizes.workers
    products *= config.attribution.method == "source_refined"
    found = {
        "prepare": 2 * costs.validation,
        "train": halves + training,
        "factors": passes * (costs.covariance_row + costs.spectrum_row)
        + config.attribution.segments * costs.eigenvectors
        + products * PRODUCT_COST * costs.covariance_row,
        "attribute": passes * ATTRIBUTE_COST * costs.spectrum_row,
    }
    once = sum(seconds for name, seconds in found.items() if name != "prepare")
    searched = min(train, MOST_ROWS) if config.detection.backdoors and validation else 0
    found["detect"] = train * SIGNALS_ROW + searched * SEARCH_ROW / sizes.workers
    found["attribute"] += max(0, config.attribution.ensemble - config.detection.repeats) * once
    found["detect"] += (config.detection.repeats - 1) * once
    if retrainings(config):
        one = steps + 2 * holdout * costs.evaluated_row
        count = retrainings(config) + fidelity_retrainings(config, validation)
        found["verify"] = -(-count // sizes.workers) * one
    if config.verification.unrolled:
        found["verify"] = found.get("verify", 0.0) + unrolled.trainings(config.training) * steps
    return found


def retrainings(config: AuditConfig) -> int:
    """How many verification makes at most, if there is something to remove: as given, the arms and a control."""
    return config.verification.seeds * (2 + len(config.verification.arms))


def fidelity_retrainings(config: AuditConfig, validation: int) -> int:
    """How many more say how faithful the scores are; `validation`: rows."""
    wanted = config.verification.seeds and validation and not config.detection.canaries
    groups = config.verification.fidelity_groups(flagged=True) if wanted else 0
    return groups + controls(groups)


def memory_line(config: AuditConfig, sizes: Sizes) -> Line:
    """The largest of what a worker holds: the rows and a model in training, or factors and checkpoints."""
    model, factors = 4 * sizes.parameters, 4 * sizes.factor_numbers
    training = min(sizes.rows["train"] * sizes.row_bytes, config.training.memory_budget) + 4 * model
    kept = min(WEIGHTS_KEPT, config.training.checkpoints) * model
    attribution = config.attribution.segments * (factors + model) + 2 * (2 * factors + model) + kept
    needed = WORKER_BYTES + max(training, attribution)
    text = f"{words.size(needed)} of memory per worker"
    if needed > config.compute.memory_per_worker:
        return Line(
            "will need", text, f"warning: set compute.memory_per_worker to {words.size(1.3 * needed)} or more"
        )
    if not config.compute.scheduler and needed * sizes.workers > psutil.virtual_memory().available:
        free = words.size(psutil.virtual_memory().available)
        return Line(
            "will need", text, f"warning: {free} are free in all; lower compute.workers from {sizes.workers}"
        )
    return Line("will need", text, OK)


def disk_line(config: AuditConfig, sizes: Sizes) -> Line:
    """Encoded rows, checkpoints with momentum, factors and their sums, measurements per epoch, the export."""
    model, rows = 4 * sizes.parameters, sum(sizes.rows.values())
    per_epoch = 48 * (2 * sizes.rows["train"] + 3 * sizes.rows["validation"])
    needed = (
        rows * sizes.row_bytes
        + 2 * (config.training.checkpoints + 2) * model
        + 2 * config.attribution.segments * (4 * sizes.factor_numbers + model)
        + config.training.epochs * per_epoch
        + sizes.rows["train"] * (8 * config.training.checkpoints + 200)
        + sizes.source_bytes
    )
    place = next(path for path in (RUNS.resolve(), *RUNS.resolve().parents) if path.exists())
    free, text = shutil.disk_usage(place).free, f"{words.size(needed)} of disk"
    if needed > free:
        return Line(
            "", text, f"{TOO_MUCH}only {words.size(free)} are free in {place}; free some, or use --output"
        )
    return Line("", text, OK)


def parameter_count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 100_000 else words.count(number)
