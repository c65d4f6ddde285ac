"""The stage `panel`: plain models of several families judge every row; train rows are judged out of fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import ROLES
from pipeline.data.catalog import read_catalog
from pipeline.data.encoded import EncodedData
from pipeline.data.evidence.collect import collect_evidence
from pipeline.data.hashing import ids_of_hex
from pipeline.panel.feature_blocks import EVIDENCE, WORK, load_blocks, piece_groups, pieces, write_features
from pipeline.panel.fits import Fit, folds_path, role_labels, run_fit, sample_path, save_array
from pipeline.panel.folds import assign_folds, draw_sample, rare_classes
from pipeline.panel.judges import OWN_PROBABILITIES, Judge, choose_judges
from pipeline.panel.opinions import FOLDER, JUDGED
from pipeline.panel.pooling import pool
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import remove, write_json
from pipeline.workers.worker import run_data

REPEATS = 1
SAMPLE_BYTES = 2**28
"""Upper limit for the features of the rows that judges are fitted on; a worker holds about four times as much."""


def panel_stage(context: AuditContext) -> dict[str, Any]:
    """Fit the judges on the workers and write `panel/`.

    Returns:
        The facts of the stage for the run's record.
    """
    config, path = context.config.detection, context.run.path
    if not config.panel:
        return {"judges": []}
    data = run_data(path)
    task, outputs = data.encoding.task, data.encoding.outputs
    labels = role_labels(data, "train")
    rare = rare_classes(labels, task, outputs, config.panel_folds)
    if len(rare) == outputs and task == "classification":  # no class can be judged
        return {"judges": [], "not_judged_classes": data.encoding.classes}
    collected = collect_evidence(context.config, path, data.encoding, path / EVIDENCE)
    _make_features(context, data)
    strata = data.encoding.target.strata(labels)
    features = ids_of_hex(read_catalog(path, "train", ["features_hash"])["features_hash"])
    dealt = [
        assign_folds(features, strata, config.panel_folds, config.seed, repeat) for repeat in range(REPEATS)
    ]
    save_array(folds_path(path), np.stack(dealt))
    sample = draw_sample(strata, min(config.panel_rows, _rows_that_fit(path, data)), config.seed)
    save_array(sample_path(path), sample)
    first, hidden = load_blocks(path, pieces(data, "train")[0]), _hidden_columns(context, data)
    judges = choose_judges(first, task, outputs)
    blind = choose_judges(first.without(hidden), task, outputs) if hidden else []
    _make_fits(context, judges, hidden, blind)
    judged = _write_judged(path, data, rare)
    facts = {
        "folds": config.panel_folds,
        "repeats": REPEATS,
        "fitted_rows": int(np.count_nonzero(dealt[0][sample] != 0)),
        "not_judged_classes": [data.encoding.classes[place] for place in rare.tolist()],
    }
    given = [OWN_PROBABILITIES] if "pred_probs" in collected else []
    facts |= pool(path, [*judges, *given], hidden, blind, config.panel_folds, judged)
    if collected:
        facts["evidence"] = {name: asdict(each) for name, each in collected.items()}
    write_json(path / FOLDER / "judges.json", facts)
    remove(path / WORK)
    return facts


def _make_features(context: AuditContext, data: EncodedData) -> None:
    """Write the features of all rows, on the workers."""
    path = context.run.path
    groups = [group for role in ROLES for group in piece_groups(pieces(data, role))]
    total, done = sum(data.count(role) for role in ROLES), 0

    def tick(place: int, _: None) -> None:
        nonlocal done
        done += sum(piece.rows for piece in groups[place])
        context.progress("panel: features", done, total, "rows")

    names = [f"panel: features of {group[0].role}" for group in groups]
    context.workers.run(write_features, [(path, group) for group in groups], names, tick)


def _rows_that_fit(path: Path, data: EncodedData) -> int:
    """How many train rows have features of SAMPLE_BYTES together."""
    written = sum(piece.path(path).stat().st_size for piece in pieces(data, "train"))
    return max(1, SAMPLE_BYTES * data.count("train") // max(1, written))


def _hidden_columns(context: AuditContext, data: EncodedData) -> list[str]:
    """The features in `data.group`, which blind judges don't see; empty if no other features would be left."""
    features = [encoder.column for encoder in data.encoding.features]
    hidden = [name for name in features if name in context.config.data.group]
    return hidden if len(hidden) < len(features) else []


def _make_fits(
    context: AuditContext, judges: Sequence[Judge], hidden: Sequence[str], blind: Sequence[Judge]
) -> None:
    """Run all fits on the workers, judge by judge in the order of JUDGES; blind judges come last."""
    config, path = context.config.detection, context.run.path
    places = [(repeat, fold) for repeat in range(REPEATS) for fold in range(config.panel_folds)]
    fits = [Fit(judge.name, *place) for judge in judges for place in places]
    fits += [Fit(judge.name, *place, tuple(hidden)) for judge in blind for place in places]
    done = 0

    def tick(place: int, _: None) -> None:  # noqa: ARG001
        nonlocal done
        done += 1
        context.progress("panel", done, len(fits), "fits")

    tasks = [(path, fit, config.seed) for fit in fits]
    context.workers.run(run_fit, tasks, [fit.name for fit in fits], tick)


def _write_judged(path: Path, data: EncodedData, rare: np.ndarray) -> np.ndarray:
    """Write to `panel/judged/` which rows the panel has an opinion on; returns those of train, bool `[train rows]`."""
    for role in ROLES:
        if data.count(role):
            labels = role_labels(data, role)
            judged = (
                ~np.isin(labels, rare) if labels.ndim == 1 and len(rare) else np.ones(len(labels), dtype=bool)
            )
            save_array(path / FOLDER / JUDGED / f"{role}.npy", judged)
    return np.load(path / FOLDER / JUDGED / "train.npy")
