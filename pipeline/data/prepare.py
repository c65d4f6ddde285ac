"""The stage `prepare`: two passes over the shards, which fit the encoding and write the encoded rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file

from pipeline.config import ROLES, AuditConfig
from pipeline.data.canaries import Canaries, draw_canaries, save_canaries
from pipeline.data.catalog import write_catalog
from pipeline.data.checks import check_keys, check_roles, content_in_two_roles, duplicates
from pipeline.data.encode import ENCODING, Encoding
from pipeline.data.encoded import Chunk, chunk_path, save_chunks
from pipeline.data.evidence.collect import check_task, collect_evidence
from pipeline.data.files import (
    Run,
    Shard,
    check_unchanged,
    counted,
    find_files,
    open_shards,
    read_runs,
    sha256_of,
    source_fingerprint,
)
from pipeline.data.formats.copies import notes_of
from pipeline.data.named_rows import trusted_rows
from pipeline.data.schema import (
    check_other_columns,
    check_schemas,
    detect_task,
    feature_columns,
    used_columns,
)
from pipeline.data.slices import check_slice_rows, check_slice_types, write_slices
from pipeline.data.survey import ShardRows, Survey
from pipeline.features.arrow import value_type
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_atomically
from pipeline.tasks.registry import TASKS

__all__ = ["prepare", "source_fingerprint"]

CHUNK_BYTES = 2**26
"""Encoded rows of a chunk: what a worker holds of the data, however large a row is."""


def prepare(context: AuditContext) -> dict[str, Any]:
    """Write catalog.parquet, encoding.json and encoded/; return the facts for the record.

    Raises InputError for whatever is wrong with the data, naming file, column and row.
    """
    config, run = context.config, context.run
    shards = open_shards(find_files(config.data))
    encoding = create_encoding(shards, config)
    survey = survey_rows(shards, encoding, context)
    encoding.save(run / ENCODING)
    canaries = draw_canaries(config, encoding.task, survey.counts()["train"], encoding.outputs)
    chunks = write_chunks(survey, encoding, context, canaries)
    write_slices(run.path, survey, config.compute.chunk_rows)
    check_unchanged(shards)
    return facts(survey, chunks)


def create_encoding(shards: Sequence[Shard], config: AuditConfig) -> Encoding:
    """The encoding that the schemas and the config ask for, not yet fitted."""
    data = config.data
    check_schemas(shards, data)
    check_other_columns(shards, data)
    check_slice_types(shards, data)
    label_type, task = value_type(shards[0].schema.field(data.label).type), detect_task(shards, data)
    TASKS[task].check_options(config)
    check_task(data, task)
    return Encoding.create(feature_columns(shards, data), task, label_type, data)


def survey_rows(shards: Sequence[Shard], encoding: Encoding, context: AuditContext) -> Survey:
    """The first pass. The catalog is there only if nothing was wrong."""
    data, total, done = context.config.data, sum(shard.rows for shard in shards), 0
    with write_catalog(context.run.path) as catalog:
        survey = Survey(data, shards, encoding, catalog)
        for shard in shards:
            for run in read_runs(shard, used_columns(data), context.config.compute.chunk_rows):
                survey.add(run)
                done += run.batch.num_rows
                context.progress("validate", done, total, "rows")
        survey.problems.raise_first()
        check_roles(data, survey.counts())
        check_slice_rows(data, survey.counts())
        check_keys(data, survey.shards)
        encoding.finish()
    collect_evidence(context.config, context.run.path, encoding)  # the panel writes it; here it is checked
    if context.config.detection.trusted is not None:
        trusted_rows(context.config, context.run.path)  # what is wrong with the file is said before any work
    return survey


def write_chunks(
    survey: Survey, encoding: Encoding, context: AuditContext, canaries: Canaries | None = None
) -> list[Chunk]:
    """The second pass: encode every run and write one file per role that it has rows of.

    A run has at most `compute.chunk_rows` rows and CHUNK_BYTES when encoded. `canaries` are planted on the way.
    """
    total, done = sum(kept.shard.rows for kept in survey.shards), 0
    columns = [*context.config.data.features, encoding.label.column]
    columns += [encoding.weight.column] if encoding.weight else []
    chunks: list[Chunk] = []
    firsts = dict.fromkeys(ROLES, 0)
    row_bytes = 0
    chunk_rows = min(context.config.compute.chunk_rows, max(1, CHUNK_BYTES // encoding.row_bytes))
    for kept in survey.shards:
        for run in read_runs(kept.shard, columns, chunk_rows):
            for role, arrays in _encode_run(run, kept, encoding).items():
                rows = len(arrays["labels"])
                if canaries is not None and role == "train":
                    canaries.plant(arrays["labels"], firsts[role])
                chunk = Chunk(f"{role}-{run.shard.index:05d}-{run.first:09d}", role, rows, firsts[role])
                _write_chunk(context.run, chunk, arrays)
                firsts[role] += rows
                row_bytes = sum(array.nbytes for array in arrays.values()) // rows
                chunks.append(chunk)
            done += run.batch.num_rows
            context.progress("encode", done, total, "rows")
    if canaries is not None:
        save_canaries(context.run.path, canaries)
    save_chunks(context.run.path, chunks, row_bytes)
    return chunks


def _encode_run(run: Run, kept: ShardRows, encoding: Encoding) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of a run's rows by role; roles without rows and rows without a role are left out."""
    places = slice(run.first, run.first + run.batch.num_rows)
    codes, ids = kept.roles[places], kept.ids[places]
    found = {}
    for code, role in enumerate(ROLES):
        mine = codes == code
        if mine.any():
            batch = run.batch if mine.all() else run.batch.filter(pa.array(mine))
            found[role] = encoding.encode(batch) | {"row_ids": ids[mine]}
    return found


def _write_chunk(run: RunDirectory, chunk: Chunk, arrays: dict[str, np.ndarray]) -> None:
    with write_atomically(chunk_path(run.path, chunk.id)) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)


def facts(survey: Survey, chunks: Sequence[Chunk]) -> dict[str, Any]:
    """What the stage found out, JSON values only."""
    encoding = survey.encoding
    repeated, shared = duplicates(survey.shards), content_in_two_roles(survey.shards)
    counts = survey.counts()
    return {
        "rows": counts,
        "shards": len(survey.shards),
        "chunks": len(chunks),
        "features": {encoder.column: encoder.kind for encoder in encoding.features},
        "task": encoding.task,
        "classes": len(encoding.classes),
        "class_counts": {str(value): n for value, n in zip(encoding.classes, encoding.class_counts)},
        "duplicates": repeated,
        "content_in_two_roles": shared,
        "dropped_labels": survey.dropped,
        "sources": [source(kept.shard) for kept in survey.shards],
        "warnings": warnings(survey, counts, repeated, shared),
    }


def source(shard: Shard) -> dict[str, Any]:
    return {
        "path": shard.path,
        "role": shard.role,
        "rows": shard.rows,
        "row_groups": len(shard.row_groups),
        "size": shard.size,
        "mtime_ns": shard.mtime_ns,
        "sha256": sha256_of(shard.path),
    }


def warnings(survey: Survey, counts: dict[str, int], repeated: dict[str, int], shared: int) -> list[str]:
    """Sentences for a person: what is odd, and what follows from it."""
    task, dropped, split = survey.encoding.task, survey.dropped, survey.data.split
    texts = [f"{note}." for kept in survey.shards for note in notes_of(kept.shard.path)]
    if repeated["groups"]:
        texts.append(
            f"{repeated['rows']:,} train rows occur more than once, with equal features and label "
            f"({counted(repeated['groups'], 'different one')}): each counts as often as it occurs."
        )
    if repeated["conflicting_rows"] and task == "classification":
        texts.append(f"{repeated['conflicting_rows']:,} train rows have equal features and different labels.")
    if shared:
        texts.append(
            f"{counted(shared, 'row')} {'stands' if shared == 1 else 'stand'} in two roles, with equal features and "
            "label: what is measured on validation and holdout is a little too good."
        )
    if dropped:
        so = "has no label: it takes" if dropped == 1 else "have no label: they take"
        stay = "stays" if dropped == 1 else "stay"
        texts.append(f"{counted(dropped, 'row')} {so} no part and {stay} in the export.")
    if split and split.column:
        missing = [role for role in ROLES[1:] if counts[role] == 0]
        texts += [f"The split column {split.column!r} gives no row the role {role}." for role in missing]
    return texts
