"""The front door of `winnow trace`: finds the train rows with the most influence on predictions of a finished run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.attribution.atomic import write_folder_atomically
from pipeline.attribution.methods import find_method
from pipeline.attribution.queries.compression import TOLERANCE
from pipeline.config import AuditConfig, load_config
from pipeline.data.encode import Encoding
from pipeline.data.encoded import CHUNKS, FOLDER, chunk_path
from pipeline.data.source_rows import read_rows
from pipeline.detection.backdoor.forensics import Forensics, investigate
from pipeline.errors import InputError
from pipeline.runs.context import AuditContext, Progress, silent
from pipeline.runs.directory import RunDirectory, existing_run, write_atomically, write_text
from pipeline.runs.settled import settled
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.plan import ScoringPlan
from pipeline.trace.nearest import Nearest, agreements
from pipeline.trace.page import trace_page
from pipeline.trace.queries import TraceQueries, read_queries
from pipeline.trace.refined import check_refined, refine_part, solved_at_once
from pipeline.trace.strongest import Table, merge
from pipeline.trace.tables import influences_table, nearest_table
from pipeline.trace.tasks import (
    QUERIES_PER_PART,
    TraceWork,
    prepare_part,
    read_answers,
    read_chunk,
    trace_chunk,
)
from pipeline.trace.word_counts import save_counts, unreadable_source, write_counts
from pipeline.workers.cluster import Workers
from pipeline.workers.sums import forget, summed
from pipeline.workers.worker import run_data

FOLDER_NAME = "trace"
TOP = 20
COUNTING_TASKS = 32
"""Upper limit of tasks that count words; each streams through the files of its rows."""


@dataclass(frozen=True)
class TraceAnswers:
    """The model's predictions for the queries.

    Attributes:
        outputs: float32 `[queries, outputs]`.
        labels: encoded, `[queries]`: the labels in the file of queries, or else the predictions.
        losses: `[queries]`, in nats, or squared errors for regression.
        given: whether the file of queries has labels.
    """

    outputs: np.ndarray
    labels: np.ndarray
    losses: np.ndarray
    given: bool

    @cached_property
    def predictions(self) -> np.ndarray:
        """The predicted class indices, or standardised targets, `[queries]`."""
        return self.outputs.argmax(1) if self.outputs.shape[1] > 1 else self.outputs[:, 0]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The probabilities of the classes, float64 `[queries, classes]`."""
        return torch.from_numpy(self.outputs).double().softmax(1).numpy()


@dataclass(frozen=True)
class Trace:
    """A finished trace.

    Attributes:
        folder: has influences.parquet, nearest.parquet, index.html and, with forensics, the files of `Forensics`.
        encoding: of the run.
        queries: the encoded queries.
        answers: the model's predictions for them.
        table: influences.parquet.
        nearest: the rows that are most like the queries.
        forensics: the result of the search for shared triggers; None without one.
        refined: whether queries were solved for with the true Gauss–Newton matrix.
    """

    folder: Path
    encoding: Encoding
    queries: TraceQueries
    answers: TraceAnswers
    table: pa.Table
    nearest: Nearest
    forensics: Forensics | None
    refined: bool

    def decode(self, label: float) -> Any:
        """Turn a class index or standardised target into a label of the source."""
        return self.encoding.decode_labels(np.array([label]))[0].as_py()

    @property
    def page(self) -> Path:
        return self.folder / "index.html"


def trace(
    run_path: str | Path,
    queries: str | Path,
    top: int = TOP,
    backdoor: bool = False,
    refined: bool | None = None,
    output: str | Path | None = None,
    progress: Progress = silent,
) -> Trace:
    """Find the train rows with the most influence on each query's loss, and write a table and a page of them.

    Args:
        run_path: a run directory.
        queries: a Parquet file with the feature columns of the run. Without the label column, each query is about the
            model's own prediction.
        top: how many rows for and how many rows against each query are listed.
        backdoor: also search for a trigger that the queries share.
        refined: solve for every query with the true Gauss–Newton matrix, which orders rows better and gives nats, but
            takes longer. None does so if the run's `attribution.method` is a refined one.
        output: the folder for the results; None takes `trace/<name of the file>` in the run. An earlier trace in it is
            replaced.
        progress: called while the trace is computed.

    Raises:
        InputError: the run has not finished the stage `attribute`, files of it were deleted, its method or refined
            solves are not defined for single queries, or the queries are wrong.
    """
    if top < 1:
        raise InputError(f"top is {top}", "Ask for one row at least.")
    run = existing_run(run_path, "attribute")
    config = settled(load_config(run / "config.yaml"), run.path)
    check_kept(run, config)
    run.check_stages("prepare", "train", "factors")
    encoding = run_data(run.path).encoding
    if encoding.task == "multilabel":
        raise InputError(
            f"{run_path}: predictions of sets of labels can't be traced", "Trace a run with classes."
        )
    method = find_method(config.attribution.method)
    if method.similarity is not None:
        raise InputError(
            f"attribution.method of the run is {config.attribution.method}, which has no influence on single queries",
            "Audit with another one: --set attribution.method=source.",
        )
    refined = method.refined if refined is None else refined
    if refined:
        check_refined(run.path, config.attribution)
    asked = read_queries(Path(queries), encoding, config.data)
    if backdoor and encoding.task != "classification":
        raise InputError("--backdoor is for classification", "Leave it out: regression has no target class.")
    folder = Path(output) if output is not None else run / FOLDER_NAME / asked.path.stem
    _check_output(folder)
    with run.lock() as lock, Workers(config.compute, lock) as workers:
        context = AuditContext(config, run, workers, progress)
        with write_folder_atomically(folder) as made:
            found = write_trace(context, asked, top, backdoor, refined, made)
            shutil.rmtree(made / "work")
    return Trace(folder, encoding, asked, *found, refined)


def _check_output(folder: Path) -> None:
    """Check that the output folder is new, empty or an earlier trace.

    Raises:
        InputError: it is not.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file, not a directory", "Choose another --output.")
    if folder.exists() and any(folder.iterdir()) and not (folder / "influences.parquet").exists():
        raise InputError(f"{folder}: not empty, and not an earlier trace", "Choose another --output.")


def check_kept(run: RunDirectory, config: AuditConfig) -> None:
    """Check that the files of the run that a trace reads still exist.

    Raises:
        InputError: encoded rows, factors or checkpoints were deleted.
    """
    plan = ScoringPlan("whole", run.path, config.attribution.segments)
    needed = [run / "encoding.json", run / FOLDER / CHUNKS, plan.trajectory_path / "trajectory.json"]
    if plan.method.fitted:
        needed += [plan.segment_path(segment) for segment in range(plan.segments)]
    if all(path.exists() for path in needed):
        needed += [chunk_path(run.path, chunk.id) for chunk in run_data(run.path).chunks("train")]
        trajectory = plan.trajectory()
        needed += [checkpoint.path for checkpoint in trajectory.checkpoints]
        needed += [trajectory.tail] if trajectory.tail is not None else []
    missing = [path for path in needed if not path.exists()]
    if missing:
        raise InputError(
            f"{missing[0]}: not there any more, and a trace needs it",
            "Keep encoded/, factors/ and checkpoints/ of a run; `winnow audit` makes them again.",
        )


def write_trace(
    context: AuditContext, asked: TraceQueries, top: int, backdoor: bool, refined: bool, folder: Path
) -> tuple[TraceAnswers, pa.Table, Nearest, Forensics | None]:
    """Compute a trace and write all of its files to `folder`."""
    path = context.run.path
    note = "" if asked.words is None else unreadable_source(path)
    work = TraceWork(
        run_path=path.absolute(),
        folder=(folder / "work").absolute(),
        segments=context.config.attribution.segments,
        queries=len(asked),
        part_queries=solved_at_once(path) if refined else QUERIES_PER_PART,
        top=top,
        tolerance=TOLERANCE,
        refined=refined,
        words=asked.words is not None and not note,
    )
    answers, found, near = _influences(context, work, asked)
    places = np.concatenate([each["places"].ravel() for each in (found, near)])
    rows = read_rows(path, places[places >= 0])
    decode = run_data(path).encoding.decode_labels
    table = influences_table(decode, asked.keys, found, rows)
    nearest = Nearest(
        nearest_table(decode, asked.keys, work.measures, near, rows),
        agreements(found, near, work.measures, run_data(path).count("train")),
        note,
    )
    for name, each in (("influences", table), ("nearest", nearest.table)):
        with write_atomically(folder / f"{name}.parquet") as temporary:
            pq.write_table(each, temporary, compression="zstd")
    forensics = None
    if backdoor:
        forensics = investigate(context, asked.inputs, answers.predictions, found["places"][0], folder)
    page = trace_page(context.run, context.config, asked, answers, table, nearest, forensics, refined)
    write_text(folder / "index.html", page)
    return answers, table, nearest, forensics


def _influences(
    context: AuditContext, work: TraceWork, asked: TraceQueries
) -> tuple[TraceAnswers, Table, Table]:
    """Compute the model's predictions for the queries, their strongest and their nearest rows, on the workers."""
    tensors = {name: torch.from_numpy(each) for name, each in asked.inputs.items()}
    if asked.labels is not None:
        tensors["labels"] = torch.from_numpy(asked.labels)
    save_tensors(work.queries_path, tensors)
    if work.words:
        _count_words(context, work, asked)
    done = 0

    def prepared(part: int, _: object) -> None:
        context.progress("trace: queries", work.rows_of(part).stop, len(asked), "queries")

    parts = range(work.parts)
    names = [f"trace: queries {work.rows_of(part).start:,} and following" for part in parts]
    context.workers.run(prepare_part, [(work, part) for part in parts], names, prepared)
    if work.refined:
        for part in parts:
            refine_part(context, work, part)
            context.progress("trace: refined queries", work.rows_of(part).stop, len(asked), "queries")
    data = run_data(work.run_path)
    chunks = data.chunks("train")

    def traced(place: int, _: object) -> None:
        nonlocal done
        done += chunks[place].rows
        context.progress("trace: train rows", done, data.count("train"), "rows")

    names = [f"trace: chunk {chunk.id}" for chunk in chunks]
    context.workers.run(trace_chunk, [(work, chunk) for chunk in chunks], names, traced)
    found, near = read_chunk(work, chunks[0])
    for chunk in chunks[1:]:
        strong, alike = read_chunk(work, chunk)
        found, near = merge(found, strong, work.top), merge(near, alike, work.top, by="similarity")
    said = {name: each.numpy() for name, each in read_answers(work).items()}
    return (
        TraceAnswers(said["outputs"], said["labels"], said["losses"], asked.labels is not None),
        found,
        near,
    )


def _count_words(context: AuditContext, work: TraceWork, asked: TraceQueries) -> None:
    """Write the words of the queries and of all train rows, on the workers."""
    save_counts(work.words_path, asked.words)
    chunks = run_data(work.run_path).chunks("train")
    size = -(-len(chunks) // COUNTING_TASKS)
    groups = [chunks[start : start + size] for start in range(0, len(chunks), size)]
    sums = work.folder / "words"
    tasks = [(work.run_path, work.folder, group) for group in groups]
    found = summed(context.workers, write_counts, tasks, sums, "trace: words")
    shutil.copyfile(found, work.rows_with_path)
    forget(sums)
