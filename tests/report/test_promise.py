"""A precision is shown only where the rule states one; canaries and what was not exported are said."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import Detection
from pipeline.detection.people.review_sample import CutOff
from pipeline.detection.rules.promises import of_reviewed
from pipeline.report.html import page
from pipeline.report.summary import headline, summary
from pipeline.runs.directory import RunDirectory, write_json

HOLDS = CutOff(60, 57, 57, 55, 0.9, "holds")
SHARE = {"value": 0.9, "low": 0.8, "high": 0.95, "rows": 54}


def change_facts(run: RunDirectory, stage: str, **facts: Any) -> None:
    record = run.record
    record["stages"][stage]["facts"] |= facts
    write_json(run / "record.json", record)


def said(context: Any) -> tuple[str, str]:
    """The box and the page."""
    found = summary(context.run)
    return "\n".join(headline(found)), page(context.run, context.config, found)


def test_the_budget_rule_states_no_precision(images: Any) -> None:
    box, html = said(images.build())
    assert "rule budget: at most 30 % of the rows and 50 % of a class are removed; precision" in box
    assert "Precision of the flags</dt><dd>Unknown." in html
    assert "No error rate is promised".lower() in html.lower()


@pytest.mark.parametrize("holds", [True, False])
def test_the_reviewed_rule_states_its_precision_or_abstains(images: Any, holds: bool) -> None:
    context = images.build()
    tests = [HOLDS] if holds else [CutOff(60, 57, 57, 30, 0.4, "fails")]
    change_facts(context.run, "detect", promise=of_reviewed(Detection(), tests).as_json())
    box, html = said(context)
    assert ("precision of the flags: at least 80 % with 95 % confidence" in box) == holds
    assert ("no promise, nothing is removed but what the reviewer called wrong" in box) != holds
    assert ("At least 80 %, with 95 % confidence" in html) == holds


def test_canaries_are_reported_and_nothing_is_said_to_be_exported(images: Any) -> None:
    images.verdict = "not tested"
    context = images.build()
    change_facts(
        context.run, "detect", canaries={"planted": 60, "removed": SHARE, "flagged": SHARE, "note": "N."}
    )
    change_facts(context.run, "export", skipped="nothing was exported: canaries")
    box, html = said(context)
    assert "labels flipped on purpose: 60, to be removed 54: 90 % (80 – 95)" in box
    assert box.lower().count("nothing was exported") == 1
    assert "cleaned/ was written" not in box + html
