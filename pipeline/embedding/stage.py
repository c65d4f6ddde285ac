"""The stage `prepare`: what pretrained encoders make of the rows comes first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import AuditConfig
from pipeline.data.files import Shard, find_files, open_shards, packs
from pipeline.data.formats.sources import open_source
from pipeline.data.prepare import create_encoding
from pipeline.data.prepare import prepare as prepare_rows
from pipeline.errors import InputError
from pipeline.features.pretrained.embed import BLOCK
from pipeline.features.pretrained.kinds import EncodedColumn
from pipeline.features.pretrained.models import Pretrained, forget, identity
from pipeline.runs.context import AuditContext
from pipeline.workers.worker import run_device

MOST_TASKS = 256
"""Tasks of a feature, about; each reads the row groups of its rows."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a file: rows `first` to `stop` − 1 of some consecutive row groups."""

    path: str
    groups: tuple[int, ...]
    first: int
    stop: int


def prepare(context: AuditContext) -> dict[str, Any]:
    """Embed the features that have an encoder, then prepare the rows (`pipeline.data.prepare`).

    Raises:
        InputError: an encoder or the data are wrong.
    """
    if encoder_identities(context.config):
        embed_features(context)
    return prepare_rows(context)


def encoder_identities(config: AuditConfig) -> dict[str, str]:
    """Column → identity of its encoder; changed weights ask for another run of the stage.

    Raises:
        InputError: an encoder is not there.
    """
    return {
        column: identity(Pretrained(column, asked.kind, asked.encoder, asked.download))
        for column, asked in config.data.features.items()
        if not isinstance(asked, str)
    }


def embed_features(context: AuditContext) -> None:
    """Compute what the encoders make of all rows, where it is not kept from an earlier run. It resumes."""
    shards = open_shards(find_files(context.config.data))
    encoding = create_encoding(shards, context.config)
    began = time.time_ns()
    for encoder in encoding.features:
        if isinstance(encoder, EncodedColumn):
            _embed(context, shards, encoder, began)
    context.workers.client.run(forget)


def _embed(context: AuditContext, shards: Sequence[Shard], encoder: EncodedColumn, began: int) -> None:
    found = pieces(shards)
    total, done = sum(piece.stop - piece.first for piece in found), 0

    def on_done(place: int, result: None) -> None:  # noqa: ARG001
        nonlocal done
        done += found[place].stop - found[place].first
        context.progress(f"embed {encoder.column}", done, total, "rows")

    context.progress(f"embed {encoder.column}", 0, total, "rows")
    tasks = [(context.run.path, encoder, piece, began) for piece in found]
    names = [f"embedding {encoder.column} of {piece.path}" for piece in found]
    context.workers.run(embed_rows, tasks, names, on_done)


def pieces(shards: Sequence[Shard]) -> list[Piece]:
    """The rows of all files, cut for tasks at multiples of BLOCK; small row groups stay together.

    It depends on the files alone: vectors are computed together with the same others, whoever computes them.
    """
    total = sum(shard.rows for shard in shards)
    size = BLOCK * max(1, -(-total // (BLOCK * MOST_TASKS)))
    return [piece for shard in shards for piece in _pieces_of(shard, size)]


def _pieces_of(shard: Shard, size: int) -> Iterator[Piece]:
    for groups in packs(shard.row_groups, size):
        rows = sum(shard.row_groups[group] for group in groups)
        for first in range(0, rows, size):
            yield Piece(shard.path, tuple(groups), first, min(rows, first + size))


def embed_rows(run_path: Path, encoder: EncodedColumn, piece: Piece, began: int) -> None:
    """Compute and keep the vectors of a piece (a task for a worker)."""
    embed = encoder.embedder(str(run_device(run_path)), began)
    at = 0
    try:
        with open_source(piece.path) as parquet:
            for batch in parquet.iter_batches(BLOCK, row_groups=list(piece.groups), columns=[encoder.column]):
                if at >= piece.stop:
                    return
                if at >= piece.first:
                    embed(encoder.material(batch.column(0)))
                at += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{piece.path}: can't be read ({type(error).__name__}: {str(error).splitlines()[0]})",
            "Copy or write the file again, or take it out of the data.",
        ) from None
