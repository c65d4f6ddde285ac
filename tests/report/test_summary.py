from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.report.html import page
from pipeline.report.summary import headline, summary
from pipeline.runs.directory import RunDirectory, read_json, write_json


def rows_of(context: Any) -> list[dict[str, Any]]:
    return pq.read_table(context.run / "rows.parquet").to_pylist()


def test_counts_come_from_the_decision_column(images: Any) -> None:
    images.decisions = {0: "relabel", 1: "keep", 2: "review"}
    context = images.build()
    found = summary(context.run)
    rows = rows_of(context)
    decisions = Counter(row["decision"] for row in rows)
    reasons = Counter(code for row in rows if row["decision"] != "keep" for code in row["reasons"])
    assert found["rows_audited"] == len(rows) == 300
    assert found["decisions"] == {name: decisions[name] for name in ("keep", "review", "remove", "relabel")}
    assert found["reasons"] == dict(reasons)
    assert decisions["relabel"] == 1


def test_reasons_of_kept_rows_are_not_counted(images: Any) -> None:
    context = images.build()
    table = pq.read_table(context.run / "rows.parquet")
    before = summary(context.run)["reasons"]
    decision = ["keep" if code == "review" else code for code in table["decision"].to_pylist()]
    at = table.schema.get_field_index("decision")
    pq.write_table(table.set_column(at, "decision", [decision]), context.run / "rows.parquet")
    after = summary(context.run)["reasons"]
    assert after["mislabelled"] < before["mislabelled"]


def test_arms_are_means_over_seeds_and_the_summary_is_json(images: Any) -> None:
    context = images.build()
    found = summary(context.run)
    arms = read_json(context.run / "verification.json")["arms"]
    for name, arm in arms.items():
        assert found["arms"][name]["metric"] == pytest.approx(np.mean(arm["metric"]))
        assert found["arms"][name]["seeds"] == len(arm["metric"])
    assert found["timings"]["verify"] == 840
    assert found["peak_memory_bytes"] == 900_000_000
    assert found["export"] == {
        "refused": False,
        "gate": "supported",
        "cleaned": "cleaned",
        "quarantine": "quarantine",
        "manifest": "cleaned.json",
        "proposed": False,
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_improved_box_has_the_verdict_its_interval_and_its_control_first(images: Any) -> None:
    lines = headline(summary(images.build().run))
    assert lines[0] == "IMPROVED: removing 21 rows (7.0 %) raises holdout accuracy"
    assert lines[1].endswith("(+1.8, 95 % interval +1.1 … +2.5; 5 retrainings each)")
    assert lines[2].startswith("removing as many random rows of the same classes: 8")
    assert lines[3] == ""
    assert "wrong labels in the train set, estimated: 6.1 % (5.2 – 7.0)" in lines
    assert any("precision of the flags: unknown;" in line for line in lines)
    assert lines[-1] == "forecast of the validation loss −0.212 (uncalibrated), measured −0.037"


def test_no_evidence_is_said_as_plainly(images: Any) -> None:
    images.verdict = "no evidence"
    lines = headline(summary(images.build().run))
    assert lines[0] == (
        "NO EVIDENCE: cleaning changes holdout accuracy by +0.2 (95 % interval −0.5 … +0.9). "
        "cleaned/ has the rows as they were given, but for what people decided and what is proved otherwise."
    )
    assert lines[1] == "as given 83.0 % → cleaned 83.3 %; 5 retrainings each"


def test_where_validation_rows_measured_too_the_claim_says_so(images: Any) -> None:
    context = images.build()
    verification = read_json(context.run / "verification.json")
    holdout = {
        "roles": ["validation", "holdout"],
        "labels": "as noisy as train",
        "rows": 600,
        "wrong_share": 0.1,
    }
    write_json(context.run / "verification.json", verification | {"holdout": holdout})
    assert headline(summary(context.run))[0].endswith("raises validation and holdout accuracy")


def test_the_loss_and_what_was_measured_on_stand_beside_the_metric(images: Any) -> None:
    context = images.build()
    verification = read_json(context.run / "verification.json")
    differences = verification["differences"]
    measure = {"words": "rows that no judge contradicts", "rows": 240, "differences": differences}
    verification |= {
        "decided_by": "uncontradicted",
        "exported": "mixed",
        "holdout": {"labels": "as noisy as train", "rows": 300, "wrong_share": 0.104},
        "measures": {"uncontradicted": measure},
    }
    write_json(context.run / "verification.json", verification)
    lines = headline(summary(context.run))
    assert lines[2].startswith("removing and relabelling (as the judges predict) as many random rows")
    assert lines[3].startswith("loss 0.")
    assert "(−0.018, 95 % interval −0.028 … −0.008); random control 0." in lines[3]
    assert lines[4] == (
        "measured on 240 rows of the holdout: rows that no judge contradicts; "
        "10.4 % of the holdout labels look wrong"
    )


def test_worse_says_that_nothing_was_exported(images: Any) -> None:
    images.verdict, images.refused = "worse", True
    lines = headline(summary(images.build().run))
    assert lines[0] == "WORSE: removing 21 rows (7.0 %) lowers holdout accuracy"
    assert "−2.8 … −1.4" in lines[1]
    assert "cleaned/ was not written (verification.gate: supported)." in lines


def test_not_tested_gives_the_note(images: Any) -> None:
    images.verdict = "not tested"
    lines = headline(summary(images.build().run))
    assert lines[0] == (
        "NOT TESTED: Verification is off (verification.seeds is 0). "
        "cleaned/ has the rows as they were given, but for what people decided and what is proved otherwise."
    )
    assert lines[1] == ""
    assert not any("forecast" in line for line in lines)


def test_before_the_export_nothing_is_claimed_about_it(images: Any) -> None:
    images.verdict, images.with_export = "no evidence", False
    found = summary(images.build().run)
    assert found["export"]["refused"] is None
    assert found["export"]["cleaned"] is None
    assert not any("cleaned/" in line for line in headline(found))


def test_gain_that_random_removal_shares_is_called_not_shown(images: Any) -> None:
    context = images.build()
    verification = read_json(context.run / "verification.json") | {"verdict": "no evidence"}
    verification["differences"]["cleaned - random_removal"]["metric"]["low"] = -0.001
    write_json(context.run / "verification.json", verification)
    assert headline(summary(context.run))[2].endswith("; the gain over that is not shown")


def test_forecast_on_noisy_validation_labels_says_so(images: Any) -> None:
    found = summary(images.build().run) | {"labels": {"validation": "as noisy as train"}}
    assert headline(found)[-1] == (
        "forecast of the validation loss (on labels as given) −0.212 (uncalibrated), measured −0.037"
    )


def test_calibrated_forecast_names_its_calibration(images: Any) -> None:
    context = images.build()
    verification = read_json(context.run / "verification.json") | {"calibrated_by": "alpha"}
    write_json(context.run / "verification.json", verification)
    assert headline(summary(context.run))[-1] == (
        "forecast of the validation loss −0.212 (scaled by a measured factor), measured −0.037"
    )


def test_missing_noise_estimate_is_said_with_its_reason(images: Any) -> None:
    context = images.build()
    record = context.run.record
    record["stages"]["detect"]["facts"] |= {
        "estimated_noise": None,
        "estimated_noise_note": "No validation rows.",
    }
    write_json(context.run / "record.json", record)
    assert "wrong labels in the train set: not estimated. No validation rows" in headline(
        summary(context.run)
    )


def test_regression_names_its_metric_and_its_control(numbers: Any) -> None:
    lines = headline(summary(numbers.build().run))
    assert lines[0].endswith("raises holdout R²")
    assert "+0.018, 95 % interval +0.011 … +0.025" in lines[1]
    assert "of the same predicted quantiles" in lines[2]


def test_relabelled_rows_are_named_beside_the_removed(images: Any) -> None:
    images.decisions = dict.fromkeys(range(3), "relabel")
    context = images.build()
    removed = sum(row["decision"] == "remove" for row in rows_of(context))
    assert f"removing {removed} and relabelling 3 rows" in headline(summary(context.run))[0]


def test_disarmed_backdoor_is_a_reason_to_use_the_cleaned_data(images: Any) -> None:
    images.verdict = "no evidence"
    context = images.build()
    alarm = {
        "target": 7,
        "kind": "window",
        "description": "a patch of 4 × 4 pixels, at any place",
        "rows": 90,
        "flip_rate": 0.9,
        "purity": 1.0,
        "content": 0.1,
    }
    record = read_json(context.run / "record.json")
    record["stages"]["detect"]["facts"]["backdoors"] = [alarm]
    write_json(context.run / "record.json", record)
    verification = read_json(context.run / "verification.json")
    for after, words in ((-0.01, "the trigger no longer works"), (0.8, "has the rows as they were given")):
        measured = [{"target": 7, "before": 0.89, "after": after}]
        write_json(context.run / "verification.json", verification | {"backdoors": measured})
        found = summary(RunDirectory(context.run.path))
        assert found["backdoors"] == [alarm | {"before": 0.89, "after": after}]
        lines = headline(found)
        assert words in lines[0]
    assert lines[3] == (
        "backdoor to 7: a patch of 4 × 4 pixels, at any place, 90 rows; "
        "it works on 89.0 % of the holdout as given, on 80.0 % after cleaning"
    )


def test_a_warning_stands_in_summary_terminal_and_page(images: Any) -> None:
    context = images.build()
    assert summary(context.run)["warnings"] == []
    record = context.run.record
    record["stages"]["detect"]["facts"]["warnings"] = ["The model was still learning."]
    context.run.update_record(**record)
    told = summary(context.run)
    assert told["warnings"] == ["The model was still learning."]
    assert "warning: The model was still learning." in headline(told)
    text = page(context.run, context.config, told)
    assert text.count("The model was still learning.") == 2  # what to do next, and how sure this is
