"""Settles the decisions in rows.parquet after verification: by the verdict, the gate and the exported arm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import AuditConfig
from pipeline.data.splits import ASIDE
from pipeline.detection.table import write_tables
from pipeline.runs.directory import RunDirectory, read_json
from pipeline.text.arms import MIXED, RELABELLED, REMOVED
from pipeline.text.decisions import CHANGED, Decider, Decision
from pipeline.text.reasons import BACKDOOR, DUPLICATE_CONFLICT, Reason

NOT_TESTED, IMPROVED, WORSE = "not tested", "improved", "worse"


def settle(run: RunDirectory, config: AuditConfig, as_proposed: bool = False) -> None:
    """Rewrite rows.parquet: `decision` gets the final decision, `proposed` the proposal of detection if it differs.

    Rows that the rule proposes to remove or relabel are treated as the exported arm treats them. Under the gate
    `supported` and with another verdict than `improved`, these rows are left for review; exceptions are proven
    backdoors, exact duplicates with contradicting labels, and rows that can't be read, which follow the proposal.
    Decisions by people stand.

    Settling again gives the same file. A new verdict or gate starts from the proposal of detection.

    Args:
        run: the run directory.
        config: with the gate.
        as_proposed: make every decision what detection proposed.
    """
    verification = _read_verification(run)
    arm = MIXED if as_proposed else verification.get("exported") or MIXED
    proved = verification["verdict"] == IMPROVED or config.verification.gate != "supported" or as_proposed
    path = run / "rows.parquet"

    def tables() -> Iterator[pa.Table]:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield settled(_complete(file.read_row_group(group)), arm, proved)

    write_tables(path, tables())


def _read_verification(run: RunDirectory) -> dict[str, Any]:
    path = run / "verification.json"
    return read_json(path) if path.exists() else {"verdict": NOT_TESTED}


def refused_by(run: RunDirectory, config: AuditConfig) -> str | None:
    """The verdict if `verification.gate` refuses an export because of it, else None; `not tested` is never refused."""
    verdict, gate = _read_verification(run)["verdict"], config.verification.gate
    if gate == "off" or verdict == NOT_TESTED:
        return None
    refused = verdict != IMPROVED if gate == "require-improved" else verdict == WORSE
    return verdict if refused else None


def _complete(rows: pa.Table) -> pa.Table:
    """Add the columns that rows.parquet of earlier versions lacks."""
    flagged = pc.not_equal(rows["decision"], Decision.KEEP.word)
    relabelled = pc.equal(rows["decision"], Decision.RELABEL.word)
    kind = rows.schema.field("suggested_label").type
    missing = {
        "proposed": lambda: pa.nulls(rows.num_rows, pa.string()),
        "new_label": lambda: pc.if_else(relabelled, rows["suggested_label"], pa.scalar(None, kind)),
        "decided_by": lambda: pc.if_else(flagged, Decider.RULE.word, pa.scalar(None, pa.string())),
    }
    for name, make in missing.items():
        if name not in rows.column_names:
            rows = rows.append_column(name, make())
    return rows


def settled(rows: pa.Table, arm: str, proved: bool) -> pa.Table:
    """Set the columns decision, proposed and new_label of some rows.

    Args:
        rows: some rows of rows.parquet with all columns.
        arm: the exported arm.
        proved: whether rows may be removed and relabelled; else they are left for review (`settle`).
    """
    proposal = pc.coalesce(rows["proposed"], rows["decision"])
    by_rule = pc.fill_null(pc.equal(rows["decided_by"], Decider.RULE.word), False)
    free = pc.and_(by_rule, pc.is_in(proposal, pa.array(CHANGED)))
    if "split" in rows.column_names:  # rows that were in no training need no retraining to go
        free = pc.and_(free, pc.not_equal(rows["split"], ASIDE))
    suggested = rows["suggested_label"]
    acted: Any = proposal
    if not proved:
        conflict = pc.and_(
            _has_reason(rows["reasons"], DUPLICATE_CONFLICT), pc.equal(proposal, Decision.REMOVE.word)
        )
        acted = pc.if_else(
            pc.or_(conflict, _has_reason(rows["reasons"], BACKDOOR)), proposal, Decision.REVIEW.word
        )
    elif arm == REMOVED:
        acted = Decision.REMOVE.word
    elif arm == RELABELLED:
        acted = pc.if_else(suggested.is_valid(), Decision.RELABEL.word, Decision.REMOVE.word)
    decision = pc.if_else(free, acted, proposal)
    changed = pc.not_equal(decision, proposal)
    suggestion = pc.if_else(
        pc.equal(decision, Decision.RELABEL.word), suggested, pa.scalar(None, suggested.type)
    )
    columns = {
        "decision": decision,
        "proposed": pc.if_else(changed, proposal, pa.scalar(None, pa.string())),
        "new_label": pc.if_else(by_rule, suggestion, rows["new_label"]),
    }
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), values.cast(rows.schema.field(place).type))
    return rows


def _has_reason(reasons: pa.ChunkedArray, reason: Reason) -> pa.Array:
    """Which rows have the reason `code`, bool `[rows]`."""
    lists = reasons.combine_chunks()
    holds = pc.equal(pc.list_flatten(lists), reason.code)
    found = np.zeros(len(lists), dtype=bool)
    found[pc.list_parent_indices(lists).filter(holds).to_numpy()] = True
    return pa.array(found)
