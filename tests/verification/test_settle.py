"""rows.parquet after the verdict, held against what the gates promise, row by row in plain Python."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import AuditConfig
from pipeline.runs.directory import RunDirectory, write_json
from pipeline.verification import settle as module
from pipeline.verification.settle import refused_by, settle

GATES = ("supported", "refuse-worse", "require-improved", "off")
VERDICTS = ("improved", "no evidence", "worse", "not tested")
ARMS = (None, "removed", "relabelled", "mixed")
ROWS: list[tuple[str, str | None, str | None, str | None, list[str]]] = [
    # decision, suggested label, new label, decided by, reasons
    ("keep", None, None, None, []),
    ("keep", "b", None, "person", []),
    ("review", "b", None, "rule", ["ambiguous"]),
    ("review", None, None, "person", ["reviewed"]),
    ("remove", None, None, "rule", ["mislabelled"]),
    ("remove", "b", None, "rule", ["outlier", "mislabelled"]),
    ("relabel", "b", "b", "rule", ["mislabelled"]),
    ("remove", "b", None, "rule", ["backdoor"]),
    ("remove", None, None, "rule", ["duplicate-conflict", "mislabelled"]),
    ("relabel", "b", "b", "rule", ["duplicate-conflict"]),
    ("remove", "b", None, "person", ["reviewed"]),
    ("relabel", "b", "c", "person", ["mislabelled", "reviewed"]),
    ("relabel", None, "c", "person", ["reviewed"]),
    ("remove", "b", None, "history", ["mislabelled"]),
]
PROVEN = (7, 8)


def test_rows_that_cannot_be_read_go_whatever_the_verdict(tmp_path: Path) -> None:
    run = make_run(tmp_path, "worse", None)
    table = pq.read_table(run / "rows.parquet")
    split = ["aside" if row == 4 else "train" for row in range(len(ROWS))]
    pq.write_table(table.append_column("split", pa.array(split)), run / "rows.parquet")
    settle(run, configured("supported"))
    found = pq.read_table(run / "rows.parquet").to_pylist()
    assert (found[4]["decision"], found[4]["proposed"]) == ("remove", None)
    assert (found[5]["decision"], found[5]["proposed"]) == ("review", "remove")


def make_run(folder: Path, verdict: str | None, arm: str | None) -> RunDirectory:
    run = RunDirectory(folder / "run")
    run.path.mkdir()
    decisions, suggested, new, by, reasons = zip(*ROWS)
    text = pa.string()
    table = pa.table(
        {
            "row_key": [str(row) for row in range(len(ROWS))],
            "suggested_label": pa.array(suggested, text),
            "decision": decisions,
            "proposed": pa.nulls(len(ROWS), text),
            "new_label": pa.array(new, text),
            "decided_by": pa.array(by, text),
            "reasons": pa.array(reasons, pa.list_(text)),
        }
    )
    pq.write_table(table, run / "rows.parquet", row_group_size=5)
    if verdict is not None:
        write_json(run / "verification.json", {"verdict": verdict} | ({"exported": arm} if arm else {}))
    return run


def configured(gate: str) -> AuditConfig:
    data = {"train": "t.parquet", "features": {"x": "numeric"}, "label": "label"}
    return AuditConfig.model_validate({"name": "t", "data": data, "verification": {"gate": gate}})


def expected(row: int, gate: str, verdict: str, arm: str | None) -> tuple[str, str | None, str | None]:
    """decision, proposed and new label of a row."""
    decision, suggested, new, by, _ = ROWS[row]
    if by != "rule" or decision not in ("remove", "relabel"):
        return decision, None, new
    if gate == "supported" and verdict != "improved":
        if row in PROVEN:
            return decision, None, new
        return "review", decision, None
    wanted = decision
    if arm == "removed":
        wanted = "remove"
    elif arm == "relabelled":
        wanted = "remove" if suggested is None else "relabel"
    return wanted, None if wanted == decision else decision, suggested if wanted == "relabel" else None


def settled_rows(run: RunDirectory) -> list[tuple[str, str | None, str | None]]:
    table = pq.read_table(run / "rows.parquet", columns=["decision", "proposed", "new_label"])
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize(("gate", "verdict", "arm"), [*itertools.product(GATES, VERDICTS, ARMS)])
def test_decisions_follow_verdict_gate_and_arm(
    tmp_path: Path, gate: str, verdict: str, arm: str | None
) -> None:
    run = make_run(tmp_path, verdict, arm)
    settle(run, configured(gate))
    assert settled_rows(run) == [expected(row, gate, verdict, arm) for row in range(len(ROWS))]
    refused = {"supported": verdict == "worse", "refuse-worse": verdict == "worse", "off": False}
    required = verdict in ("no evidence", "worse")
    assert (refused_by(run, configured(gate)) is not None) == refused.get(gate, required)


def test_without_any_verification_nothing_is_tested(tmp_path: Path) -> None:
    run = make_run(tmp_path, None, None)
    settle(run, configured("supported"))
    assert settled_rows(run) == [expected(row, "supported", "not tested", None) for row in range(len(ROWS))]


def test_settling_again_gives_the_same_file_and_another_gate_starts_from_the_proposal(tmp_path: Path) -> None:
    run = make_run(tmp_path, "no evidence", "removed")
    settle(run, configured("supported"))
    once = (run / "rows.parquet").read_bytes()
    settle(run, configured("supported"))
    assert (run / "rows.parquet").read_bytes() == once
    settle(run, configured("off"))
    assert settled_rows(run) == [expected(row, "off", "no evidence", "removed") for row in range(len(ROWS))]
    settle(run, configured("supported"))
    assert (run / "rows.parquet").read_bytes() == once


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_proposal_can_be_had_and_left_again(tmp_path: Path, verdict: str) -> None:
    run = make_run(tmp_path, verdict, "removed")
    settle(run, configured("supported"))
    before = (run / "rows.parquet").read_bytes()
    settle(run, configured("supported"), as_proposed=True)
    assert settled_rows(run) == [(row[0], None, row[2]) for row in ROWS]
    settle(run, configured("supported"))
    assert (run / "rows.parquet").read_bytes() == before


def test_a_kill_while_the_file_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, "no evidence", None)
    before = (run / "rows.parquet").read_bytes()
    calls: list[Any] = []
    plain = module.settled

    def stop_at_the_third(*arguments: Any) -> pa.Table:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(module, "settled", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        settle(run, configured("supported"))
    assert (run / "rows.parquet").read_bytes() == before


def test_rows_of_an_earlier_version_are_completed(tmp_path: Path) -> None:
    run = make_run(tmp_path, "improved", None)
    rows = pq.read_table(run / "rows.parquet").drop_columns(["proposed", "new_label", "decided_by"])
    pq.write_table(rows, run / "rows.parquet")
    settle(run, configured("refuse-worse"))
    found = pq.read_table(run / "rows.parquet").to_pylist()
    for row, (decision, suggested, *_) in zip(found, ROWS):
        assert row["decision"] == decision
        assert row["decided_by"] == (None if decision == "keep" else "rule")
        assert row["new_label"] == (suggested if decision == "relabel" else None)


def test_labels_may_be_sets(tmp_path: Path) -> None:
    run = make_run(tmp_path, "improved", "relabelled")
    rows = pq.read_table(run / "rows.parquet")
    for name in ("suggested_label", "new_label"):
        sets = pa.array([None if v is None else [v] for v in rows[name].to_pylist()], pa.list_(pa.string()))
        rows = rows.set_column(rows.schema.get_field_index(name), name, sets)
    pq.write_table(rows, run / "rows.parquet")
    settle(run, configured("supported"))
    wanted = [expected(row, "supported", "improved", "relabelled") for row in range(len(ROWS))]
    assert settled_rows(run) == [(d, p, None if new is None else [new]) for d, p, new in wanted]
