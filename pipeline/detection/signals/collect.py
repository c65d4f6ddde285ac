"""The evidence about every row: six signals that make the suspicion, and others that stand beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.data.encoded import EncodedData
from pipeline.detection.columns import Column, columns_directory
from pipeline.detection.group_harm import worst_group_harm
from pipeline.detection.judges.halves import Opinion, half_confidence, in_sample, out_of_sample
from pipeline.detection.representation.class_distance import representation_outlier
from pipeline.detection.representation.near_duplicates import near_duplicate
from pipeline.detection.representation.neighbours import clean_neighbours, neighbour_margin
from pipeline.detection.representation.represent import CLEAN, represent
from pipeline.detection.signals.early_harm import early_harm
from pipeline.detection.signals.early_loss import early_loss
from pipeline.detection.signals.early_margin import early_margin
from pipeline.detection.signals.final_loss import final_loss
from pipeline.detection.signals.forgetting import forgetting
from pipeline.detection.signals.gradient_norm import gradient_norm
from pipeline.detection.signals.self_influence import self_influence
from pipeline.detection.signals.validation_harm import validation_harm
from pipeline.detection.suspicion import Signal
from pipeline.runs.context import AuditContext
from pipeline.scoring.attribute import scores_path
from pipeline.scoring.groups import scored_groups
from pipeline.workers.worker import run_data


def read_score(run_path: Path, data: EncodedData, name: str) -> np.ndarray:
    """A column of scores/ for all train rows in their order."""
    chunks = data.chunks("train")
    parts = (pq.read_table(scores_path(run_path, chunk), columns=[name])[name].to_numpy() for chunk in chunks)
    values = np.empty(data.count("train"), dtype=np.int64 if name == "row_id" else np.float64)
    for chunk, part in zip(chunks, parts):
        values[chunk.first : chunk.first + chunk.rows] = part
    return values


def early_window(context: AuditContext) -> tuple[int, int]:
    """e*, the epoch of least out-of-sample loss, and the epochs of the early window, 2e* at most."""
    facts = context.run.facts("train")
    early = int(facts["early_epoch"])
    return early, min(2 * early, int(facts["epochs"]))


def opinion_of(context: AuditContext) -> Opinion:
    """What the halves, or without them the main run, think of the train rows in the early window."""
    judge = out_of_sample if context.config.detection.halves else in_sample
    return judge(context.run.path, early_window(context)[1])


def counting_signals(context: AuditContext) -> list[Signal]:
    """The recipe's signals alone; their values lie on disk."""
    signals = counting(context, represent(context), opinion_of(context), *early_window(context))
    return [stored(context.run.path, signal) for signal in signals]


def collect_signals(
    context: AuditContext, opinion: Opinion, early: int, window: int
) -> tuple[list[Signal], np.ndarray]:
    """All signals that there are for this dataset and config, those that count first; their values lie on disk.

    Also the distance of every row to the class that is nearest to it, float32 `[rows]`.
    """
    path = context.run.path
    seen = represent(context)
    nearest = seen.pop("nearest_distance")
    found = [*counting(context, seen, opinion, early, window), *others(context, seen)]
    return [stored(path, signal) for signal in found], nearest


def counting(
    context: AuditContext, seen: dict[str, np.ndarray], opinion: Opinion, early: int, window: int
) -> Iterator[Signal]:
    """The recipe's signals; seen: what `represent` gave."""
    path, config, data = context.run.path, context.config, run_data(context.run.path)
    if data.encoding.task == "classification":
        yield early_margin(path, window)
    yield early_loss(path, early)
    harm = harm_early(context)
    if harm is not None:
        yield early_harm(harm)
    yield neighbour_margin(seen["neighbour_margin"])
    if CLEAN in seen:
        yield clean_neighbours(seen[CLEAN])
    if config.detection.halves:
        yield half_confidence(opinion)


def harm_early(context: AuditContext) -> np.ndarray | None:
    """Every train row's harm in the early window, where it counts: with validation labels that are clean."""
    data = run_data(context.run.path)
    if not context.config.data.validation_is_clean or not data.count("validation"):
        return None
    of_window = context.run.facts("attribute")["early_harm"]
    return read_score(context.run.path, data, "early_harm" if of_window else "validation_harm")


def others(context: AuditContext, seen: dict[str, np.ndarray]) -> Iterator[Signal]:
    """Signals that were measured to add nothing to those, or that look for other faults than wrong labels."""
    path, data = context.run.path, run_data(context.run.path)
    yield final_loss(read_score(path, data, "final_loss"))
    if data.encoding.task == "classification":
        yield forgetting(path, context.config.training.epochs)
    yield self_influence(read_score(path, data, "self_influence"))
    if data.count("validation"):
        yield validation_harm(read_score(path, data, "validation_harm"))
    groups = scored_groups(path)
    if groups is not None:
        yield worst_group_harm(path, data, groups)
    yield gradient_norm(context)
    yield representation_outlier(seen["own_distance"].astype(np.float64))
    yield near_duplicate(seen["near_duplicates"].astype(np.float64))


def stored(run_path: Path, signal: Signal) -> Signal:
    values = np.asarray(signal.values)
    path = columns_directory(run_path) / signal.name
    return replace(signal, values=Column.write(path, len(values), [values]))
