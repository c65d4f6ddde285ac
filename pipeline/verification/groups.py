"""The effect of the flagged rows on each class and slice: forecast by attribution and measured by retrainings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.data.slices import read_slice_columns, read_slices
from pipeline.detection.group_harm import read_group_harm
from pipeline.scoring.groups import FEWEST_ROWS, RowGroup, find_cells, scored_groups, unions
from pipeline.text.decisions import Decision
from pipeline.training.main_run import role_labels
from pipeline.verification.arms import Decisions, train_rows
from pipeline.verification.forecast import predicted_loss_change
from pipeline.verification.results import ArmResult
from pipeline.verification.statistics import CONFIDENCE, difference_interval
from pipeline.workers.worker import run_data


def effects_on_groups(
    run_path: Path, decisions: Decisions, arm: str, results: Mapping[str, ArmResult]
) -> list[dict[str, Any]]:
    """The effects on every class, then on every slice, of at least FEWEST_ROWS rows.

    Returns:
        JSON values for each group:

        - class: the label, null for a slice. column, value: of the slice, null for a class.
        - most_harmful: how many flagged rows harm this group more than any other class, or than any other slice of its
          column; null if harm to groups was not scored.
        - predicted_loss_change: the forecast for the removals of `arm`, in nats of the group's mean validation loss;
          null if there is none, or if the arm also relabels rows.
        - holdout_rows: how many holdout rows the group has.
        - metric, loss: cleaned minus as given on these holdout rows, with 95 % intervals, or null.
        - worse: whether the metric (for regression the loss) is worse than 0 beyond its interval; the intervals hold
          for all groups at once (Bonferroni).
    """
    data = run_data(run_path)
    groups = [g for g in unions(find_cells(run_path, data)) if g.rows >= FEWEST_ROWS]
    found = [who(run_path, group) for group in groups]
    before = _forecasts(run_path, decisions, arm, groups)
    after = measurements(run_path, groups, results)
    return [one | two | three for one, two, three in zip(found, before, after)]


def who(run_path: Path, group: RowGroup) -> dict[str, Any]:
    classes, column, value = run_data(run_path).encoding.classes, None, None
    if group.column is not None and group.value is not None:
        cut = read_slice_columns(run_path)[group.column]
        column, value = cut.name, cut.values[group.value]
    return {"class": None if group.label is None else classes[group.label], "column": column, "value": value}


def _forecasts(
    run_path: Path, decisions: Decisions, arm: str, groups: list[RowGroup]
) -> list[dict[str, Any]]:
    scored = scored_groups(run_path)
    if scored is None:
        return [{"most_harmful": None, "predicted_loss_change": None}] * len(groups)
    places = [scored.groups.index(group) for group in groups]
    data, partition = run_data(run_path), np.array([-1 if g.column is None else g.column for g in groups])
    flagged = pc.not_equal(train_rows(run_path / "rows.parquet")["decision"], Decision.KEEP.word)
    flagged_rows, harm = flagged.to_numpy(), np.empty((data.count("train"), len(groups)), dtype=np.float32)
    for rows, values in read_group_harm(run_path, data, scored):
        harm[rows] = values[:, places]
    worst = np.zeros(len(groups), dtype=int)
    for part in np.unique(partition):
        members = np.flatnonzero(partition == part)
        of_flagged = harm[flagged_rows][:, members]
        chosen = members[of_flagged.argmax(1)][of_flagged.max(1) > 0]
        worst += np.bincount(chosen, minlength=len(groups))
    removed, relabelled = decisions.masks(arm)
    possible = removed.any() and not (relabelled.any() or removed.all())
    return [
        {
            "most_harmful": int(worst[place]),
            "predicted_loss_change": predicted_loss_change(-harm[:, place].astype(float), removed)
            if possible
            else None,
        }
        for place in range(len(groups))
    ]


def measurements(
    run_path: Path, groups: list[RowGroup], results: Mapping[str, ArmResult]
) -> list[dict[str, Any]]:
    """Measure the arm `cleaned` against `as_given` on the holdout rows of each group, paired by seed and row."""
    data = run_data(run_path)
    members = holdout_members(run_path, groups)
    nothing = {"metric": None, "loss": None, "worse": False}
    if "cleaned" not in results:
        return [{"holdout_rows": int(mine.sum())} | nothing for mine in members]
    arm, other = results["cleaned"], results["as_given"]
    scores, losses = arm.scores - other.scores, arm.losses - other.losses
    tested = sum(mine.sum() >= FEWEST_ROWS for mine in members)
    classes = data.encoding.task != "regression"  # a row's score means something by itself
    found = []
    for mine in members:
        entry: dict[str, Any] = {"holdout_rows": int(mine.sum())} | nothing
        if mine.sum() >= FEWEST_ROWS:
            strict = 1 - (1 - CONFIDENCE) / tested
            wide = difference_interval((scores if classes else losses)[:, mine], strict)
            entry["metric"] = difference_interval(scores[:, mine]).as_json() if classes else None
            entry["loss"] = difference_interval(losses[:, mine]).as_json()
            entry["worse"] = bool(wide.high < 0) if classes else bool(wide.low > 0)
        found.append(entry)
    return found


def holdout_members(run_path: Path, groups: list[RowGroup]) -> list[np.ndarray]:
    """The holdout rows of each group, bool `[holdout rows]`."""
    data = run_data(run_path)
    labels = role_labels(data, "holdout").numpy() if data.count("holdout") else np.zeros(0)
    slices = read_slices(run_path, "holdout")
    return [labels == g.label if g.column is None else slices[g.column] == g.value for g in groups]
