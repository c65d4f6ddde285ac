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
from safetensors.numpy import load_file

from pipeline.attribution.atomic import write_folder_atomically
from pipeline.attribution.methods import find_method
from pipeline.attribution.queries.compression import TOLERANCE
from pipeline.config import AuditConfig, load_config
from pipeline.data.encode import Encoding
from pipeline.data.encoded import CHUNKS, FOLDER, chunk_path
from pipeline.data.source_rows import TrainRows, read_rows
from pipeline.detection.backdoor.forensics import Forensics, investigate
from pipeline.errors import InputError
from pipeline.runs.context import AuditContext, Progress, silent
from pipeline.runs.directory import RunDirectory, existing_run, write_atomically, write_text
from pipeline.runs.settled import settled
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.plan import ScoringPlan
from pipeline.trace.page import trace_page
from pipeline.trace.queries import TraceQueries, read_queries
from pipeline.trace.refined import check_refined, refine_part, solved_at_once
from pipeline.trace.strongest import DIRECTIONS, Table, merge
from pipeline.trace.tasks import QUERIES_PER_PART, TraceWork, prepare_part, read_answers, trace_chunk
from pipeline.workers.cluster import Workers
from pipeline.workers.worker import run_data

FOLDER_NAME = "trace"
TOP = 20


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
        folder: has influences.parquet, index.html and, with forensics, the files of `Forensics`.
        encoding: of the run.
        queries: the encoded queries.
        answers: the model's predictions for them.
        table: influences.parquet.
        forensics: the result of the search for shared triggers; None without one.
        refined: whether queries were solved for with the true Gauss–Newton matrix.
    """

    folder: Path
    encoding: Encoding
    queries: TraceQueries
    answers: TraceAnswers
    table: pa.Table
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
) -> tuple[TraceAnswers, pa.Table, Forensics | None]:
    """Compute a trace and write all of its files to `folder`."""
    path = context.run.path
    work = TraceWork(
        run_path=path.absolute(),
        folder=(folder / "work").absolute(),
        segments=context.config.attribution.segments,
        queries=len(asked),
        part_queries=solved_at_once(path) if refined else QUERIES_PER_PART,
        top=top,
        tolerance=TOLERANCE,
        refined=refined,
    )
    answers, found = _influences(context, work, asked)
    rows = read_rows(path, found["places"][found["places"] >= 0])
    table = _as_table(run_data(path).encoding.decode_labels, asked, found, rows)
    with write_atomically(folder / "influences.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    forensics = None
    if backdoor:
        forensics = investigate(context, asked.inputs, answers.predictions, found["places"][0], folder)
    page = trace_page(context.run, context.config, asked, answers, table, forensics, refined)
    write_text(folder / "index.html", page)
    return answers, table, forensics


def _influences(context: AuditContext, work: TraceWork, asked: TraceQueries) -> tuple[TraceAnswers, Table]:
    """Compute the model's predictions for the queries and their strongest train rows, on the workers."""
    tensors = {name: torch.from_numpy(each) for name, each in asked.inputs.items()}
    if asked.labels is not None:
        tensors["labels"] = torch.from_numpy(asked.labels)
    save_tensors(work.queries_path, tensors)
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
    found = load_file(work.chunk_path(chunks[0]))
    for chunk in chunks[1:]:
        found = merge(found, load_file(work.chunk_path(chunk)), work.top)
    said = {name: each.numpy() for name, each in read_answers(work).items()}
    return TraceAnswers(said["outputs"], said["labels"], said["losses"], asked.labels is not None), found


def _as_table(decode: Any, asked: TraceQueries, found: Table, rows: TrainRows) -> pa.Table:
    """The table influences.parquet: a line for each query, direction and row, the strongest row first."""
    direction, query, rank = np.nonzero(found["places"] >= 0)
    order = np.lexsort((rank, direction, query))
    at = tuple(each[order] for each in (direction, query, rank))
    there = rows.at(found["places"][at])
    labels = rows.labels_at(found["places"][at])
    columns = {
        "query_key": pa.array(asked.keys, pa.string()).take(pa.array(at[1])),
        "query": pa.array(at[1].astype(np.int64)),
        "rank": pa.array((at[2] + 1).astype(np.int32)),
        "direction": pa.array(DIRECTIONS).take(pa.array(at[0])),
        "row_key": there["row_key"],
        "influence": pa.array(found["influence"][at]),
        "representation_similarity": pa.array(found["similarity"][at]),
        "label": decode(found["labels"][at]) if labels is None else labels,
        "decision": there["decision"],
        "shard": there["shard"],
        "row": there["row"],
    }
    return pa.table(columns)
