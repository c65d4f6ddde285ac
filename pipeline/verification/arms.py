"""The arms of verification: which train rows a retraining uses, and with which labels.

`as_given` uses all rows with their labels. `removed`, `relabelled` and `mixed` are three ways to follow the rule's
proposal; where a person has decided about a row, all three follow that decision. `random_of_<arm>` is the control of an
arm: it changes as many random rows in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.data.encoded import EncodedData
from pipeline.detection.removal_strata import read_strata
from pipeline.seeds import random_state
from pipeline.text.arms import AS_GIVEN, RANDOM_OF, RELABELLED, REMOVED
from pipeline.text.decisions import BY_PEOPLE, Decision
from pipeline.training.batches import Selection
from pipeline.training.main_run import role_labels
from pipeline.training.setup import class_weights
from pipeline.workers.kept import keep
from pipeline.workers.worker import run_config, run_data

COLUMNS = ("decision", "suggested_label", "split", "proposed", "new_label", "decided_by", "predicted_label")


@dataclass(frozen=True)
class Decisions:
    """What is proposed for the train rows, in the order of the encoded rows.

    Labels are encoded: integer classes `[rows]`, float32 standardised targets `[rows]`, or sets `[rows, labels]`.

    Attributes:
        removed: bool `[rows]`, rows to remove.
        relabelled: bool `[rows]`, rows to relabel.
        has_suggestion: bool `[rows]`, rows for which another label is suggested.
        by_person: bool `[rows]`, rows that a person has decided.
        given: the given labels.
        suggested: the labels that relabelled rows get; the given label for rows without a suggestion.
        judged: the labels that the out-of-sample judges predict.
        strata: integers `[rows]`, within which random rows are drawn: the classes, or for other tasks the strata that
            detection wrote (`detection.removal_strata`).
    """

    removed: np.ndarray
    relabelled: np.ndarray
    has_suggestion: np.ndarray
    by_person: np.ndarray
    given: Tensor
    suggested: Tensor
    judged: Tensor
    strata: np.ndarray

    @property
    def flagged(self) -> np.ndarray:
        """bool `[rows]`: rows that some arm removes or relabels."""
        return self.removed | self.relabelled

    def masks(self, arm: str) -> tuple[np.ndarray, np.ndarray]:
        """The rows that an arm removes and the rows that it relabels, bool `[rows]` each."""
        by_rule = self.flagged & ~self.by_person
        if arm == REMOVED:
            return self.removed & self.by_person | by_rule, self.relabelled & self.by_person
        if arm == RELABELLED:
            rescued = by_rule & self.has_suggestion
            return self.removed & ~rescued, self.relabelled & self.by_person | rescued
        return self.removed, self.relabelled


def read_decisions(run_path: Path) -> Decisions:
    """Read the proposal for the train rows from rows.parquet; it is cached until the file changes.

    Where the gate has changed `decision`, the column `proposed` has the proposal.
    """
    path = run_path / "rows.parquet"
    return keep("decisions", path, lambda: _decisions_of(run_path, train_rows(path)))


def train_rows(path: Path) -> pa.Table:
    """The train rows of a rows.parquet, with those of COLUMNS that the file has."""
    names = [name for name in COLUMNS if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=names)
    return table.filter(pc.equal(table["split"], "train")) if "split" in names else table


def _decisions_of(run_path: Path, table: pa.Table) -> Decisions:
    data = run_data(run_path)
    given = role_labels(data, "train")
    proposal, label = table["decision"], table["suggested_label"]
    if "proposed" in table.column_names:
        proposal = pc.coalesce(table["proposed"].cast(proposal.type), proposal)
    if "new_label" in table.column_names:
        label = pc.coalesce(table["new_label"].cast(label.type), label)
    by_person = np.zeros(len(given), dtype=bool)
    if "decided_by" in table.column_names:
        by_person = pc.is_in(table["decided_by"], pa.array(BY_PEOPLE)).to_numpy()
    return Decisions(
        removed=pc.equal(proposal, Decision.REMOVE.word).to_numpy(),
        relabelled=pc.equal(proposal, Decision.RELABEL.word).to_numpy() & label.is_valid().to_numpy(),
        has_suggestion=label.is_valid().to_numpy(),
        by_person=by_person,
        given=given,
        suggested=encoded(data, label, given),
        judged=_judged_labels(run_path, data, table, given),
        strata=given.numpy() if data.encoding.task == "classification" else read_strata(run_path),
    )


def encoded(data: EncodedData, labels: pa.ChunkedArray, given: Tensor) -> Tensor:
    """Encode `labels` (in the type of the source); where they are null, take the encoded label from `given`."""
    found, valid = given.clone(), labels.is_valid().to_numpy()
    if valid.any():
        values = torch.from_numpy(data.encoding.label.encode(labels.drop_null().combine_chunks()))
        found[torch.from_numpy(np.asarray(valid))] = values.to(found.dtype)
    return found


def _judged_labels(run_path: Path, data: EncodedData, table: pa.Table, given: Tensor) -> Tensor:
    """The out-of-fold predictions of the panel, or else the predictions of the main run, or else the given labels."""
    path = run_path / "panel" / "mean" / "train.npy"
    opinions = np.load(path, mmap_mode="r") if path.exists() else None
    if opinions is not None and len(opinions) == len(given):
        return torch.from_numpy(np.array(data.encoding.target.answers(opinions))).to(given.dtype)
    return (
        encoded(data, table["predicted_label"], given) if "predicted_label" in table.column_names else given
    )


def random_removal(strata: np.ndarray, removed: np.ndarray, seed: int) -> np.ndarray:
    """Remove as many random rows from every stratum as `removed` does; returns the kept rows, bool `[rows]`."""
    return ~random_rows(strata, removed, np.ones(len(strata), dtype=bool), "random removal", seed)


def random_rows(
    strata: np.ndarray, like: np.ndarray, allowed: np.ndarray, purpose: str, seed: int
) -> np.ndarray:
    """Choose from every stratum as many random rows as `like` has there.

    Args:
        strata: integers `[rows]`.
        like: bool `[rows]`.
        allowed: bool `[rows]`, rows that may be chosen; a stratum with too few of them gives all it has.
        purpose: part of the seed of the random state.
        seed: part of the seed of the random state.

    Returns:
        bool `[rows]`.
    """
    counts = np.bincount(strata[like], minlength=int(strata.max()) + 1)
    order = random_state(purpose, seed).permutation(len(strata))
    order = order[allowed[order]]
    order = order[np.argsort(strata[order], kind="stable")]
    grouped = strata[order]
    place = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    chosen = np.zeros(len(strata), dtype=bool)
    chosen[order[place < counts[grouped]]] = True
    return chosen


def arm_rows(decisions: Decisions, arm: str, seed: int) -> tuple[np.ndarray | None, Tensor | None]:
    """The rows that an arm keeps, and their labels.

    A control removes as many random rows of every stratum as its arm. It also gives as many unflagged rows of the same
    strata the label that the judges predict, which measures what copying the judges is worth. It is drawn anew for
    every seed, so that the control averages over random sets.

    Returns:
        The kept rows, bool `[rows]`, or None for all rows; and encoded labels of all rows, or None for the given ones.
    """
    if arm == AS_GIVEN:
        return None, None
    removed, relabelled = decisions.masks(arm.removeprefix(RANDOM_OF))
    new = decisions.suggested
    if arm.startswith(RANDOM_OF):
        kept = random_removal(decisions.strata, removed, seed)
        allowed = kept & ~decisions.flagged
        relabelled = random_rows(decisions.strata, relabelled, allowed, "random relabelling", seed)
        new = decisions.judged
    else:
        kept = ~removed
    if not relabelled.any():
        return kept, None
    changed = torch.from_numpy(relabelled).reshape(-1, *[1] * (decisions.given.dim() - 1))
    return kept, torch.where(changed, new, decisions.given)


def distinct_arms(decisions: Decisions, arms: Sequence[str]) -> list[str]:
    """The arms that change some rows and leave some rows to train on; of arms that do the same, only the first."""
    found: dict[tuple[bytes, bytes], str] = {}
    for arm in arms:
        removed, relabelled = decisions.masks(arm)
        if not removed.all() and (removed | relabelled).any():
            found.setdefault((removed.tobytes(), relabelled.tobytes()), arm)
    return list(found.values())


def arm_selection(run_path: Path, arm: str, seed: int) -> Selection:
    """The train rows and labels of a retraining of `arm`; class weights are those of the main run."""
    kept, labels = arm_rows(read_decisions(run_path), arm, seed)
    weights = class_weights(run_config(run_path).training, run_data(run_path))
    return Selection(keep=kept, labels=labels, class_weights=weights)
