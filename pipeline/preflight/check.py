"""`winnow check`: validates all data, tries the model, and estimates the time, memory and findings of an audit."""

from __future__ import annotations

import copy
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pipeline.attribution.model.capture import coverage, covered_layers
from pipeline.attribution.model.unseen import unseen_gradients
from pipeline.config import AuditConfig
from pipeline.data.canaries import draw_canaries
from pipeline.data.encoded import EncodedData
from pipeline.data.files import find_files, open_shards
from pipeline.data.prepare import create_encoding, survey_rows, write_chunks
from pipeline.data.survey import Survey
from pipeline.embedding.stage import encoder_identities
from pipeline.embedding.trial import Trials
from pipeline.models import model_name
from pipeline.models.validate import check_model
from pipeline.preflight import expected_findings
from pipeline.preflight.columns import odd_labels, suspicious_features
from pipeline.preflight.data_lines import data_lines, rule_lines
from pipeline.preflight.estimate import Sizes, measure, stage_seconds
from pipeline.preflight.model_lines import (
    approximated_lines,
    layer_costs,
    model_line,
    trial_text,
    unseen_lines,
)
from pipeline.preflight.resource_lines import disk_line, memory_line, time_line
from pipeline.preflight.result import OK, CheckLine, Preflight
from pipeline.runs.context import AuditContext, Progress, silent
from pipeline.runs.directory import RunDirectory, write_text
from pipeline.text import words
from pipeline.training.batches import Selection
from pipeline.training.recipe import make_recipe
from pipeline.training.recorded import check_recorded, load_recorded
from pipeline.training.replayed import check_replayable, check_same_order
from pipeline.training.setup import deterministic, set_up
from pipeline.training.trial import assumed, plan_trial
from pipeline.training.tried import count_drawn
from pipeline.verification.statistics import DISAGREEMENT, power
from pipeline.workers.cluster import Workers
from pipeline.workers.precision import require_precision

SAMPLE_ROWS = 50_000  # so many train rows are encoded for the trial; all rows are validated
FEWEST_HOLDOUT = 20  # with fewer rows the power of verification is not shown


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
        encoder_identities(config)  # an encoder that is not there is said without a file's name
        shards = open_shards(find_files(config.data))
        encoding = create_encoding(shards, config)
        encoders = Trials(encoding)
        survey = survey_rows(shards, encoding, context)
        embedding, embedded = encoders.seconds(), encoders.lines()
        encoding = survey.encoding
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
            check_same_order(config, setup.model)
            if config.training.trajectory is not None:
                check_recorded(config, setup.model, rows["train"])
            covered = coverage(setup.model, config.attribution.widest_outputs)
            unseen = unseen_gradients(setup.model, few.inputs)
            layers = layer_costs(setup.model, few.inputs, config)
        count = workers.count() if config.compute.scheduler else workers.local_count()
        costs = measure(workers, count, run.path, recipe)
        encoded = sum(chunk.rows for chunk in chunks)
        if config.compute.scheduler:
            embedding /= count
        costs = replace(
            costs, validation=validation + embedding, encoded_row=encoding_seconds / max(1, encoded)
        )
        sizes = Sizes(
            rows=rows,
            row_bytes=data.nbytes("train") // data.count("train"),
            parameters=covered.total,
            factor_numbers=sum(
                layer.factor_numbers
                for layer in covered_layers(setup.model, config.attribution.widest_outputs)
            ),
            source_bytes=sum(shard.size for shard in shards),
            workers=count,
            kinds=frozenset(
                kind for each in data.encoding.features for kind in each.judged_as.split(" and ")
            ),
            classes=len(data.encoding.classes),
        )
        name = model_name(config.model, data.encoding)
        trial = None
        if asked.left_to_trial:
            drawn = count_drawn(rows["train"], encoding.row_bytes, config.training.memory_budget)
            trial = plan_trial(asked, encoding, drawn)
        sliced = expected_findings.slices(survey, config.compute.chunk_rows)
    lines = data_lines(config, survey) + [CheckLine("slices", text, status or OK) for text, status in sliced]
    lines += [CheckLine("" if place else "encoder", text, OK) for place, text in enumerate(embedded)]
    lines += [
        CheckLine("" if place else "features", *said)
        for place, said in enumerate(suspicious_features(shards, encoding))
    ]
    lines += [CheckLine("" if place else "classes", *said) for place, said in enumerate(odd_labels(survey))]
    lines += [*rules, model_line(name, covered), *approximated_lines(covered), *unseen_lines(unseen)]
    lines += [] if trial is None else [CheckLine("will try", trial_text(trial, asked), OK)]
    lines += [
        CheckLine("" if place else "labels", *said)
        for place, said in enumerate(expected_findings.labels(config, rows))
    ]
    seconds = stage_seconds(config, sizes, costs, recipe)
    if trial is not None:
        seconds["train"] += trial.most_steps * costs.step / min(count, trial.folds * trial.finalists)
    lines += [time_line(config, sizes, seconds), memory_line(config, sizes), disk_line(config, sizes)]
    measuring = rows["holdout"]
    if not (config.data.labels_are_clean("validation") or config.data.labels_are_clean("holdout")):
        measuring += rows["validation"]
    lines += _power_lines(config, encoding.task, measuring)
    lines.append(CheckLine("will say", expected_findings.findings(config, encoding.task, rows)))
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
