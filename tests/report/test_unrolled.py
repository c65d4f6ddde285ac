"""What a report says about exact differentiation: the correlation, or that training was chaotic."""

from __future__ import annotations

from typing import Any

from pipeline.report.html import page
from pipeline.report.summary import headline, summary
from pipeline.report.unrolled import unrolled_line, unrolled_sentence
from pipeline.runs.directory import read_json, write_json

CALM = {
    "correlation": {"value": -0.125, "low": -0.2, "high": 0.05},
    "growth": 2.5,
    "limit": 10.0,
    "chaotic": False,
}


def test_the_correlation_is_said_with_how_smooth_training_was() -> None:
    said = unrolled_sentence(CALM)
    assert "rank correlation of −0.12 (−0.20 – 0.05) with exact differentiation" in said
    assert "derivatives grow to 2.50 times their size" in said


def test_a_derivative_that_retrainings_contradict_is_said_to_be_wrong() -> None:
    interval = {"value": 0.1, "low": -0.3, "high": 0.4}
    ahead = {"value": -0.4, "low": -0.7, "high": -0.1}
    judged = CALM | {"fidelity": interval, "ahead": ahead, "trusted": False, "same_order": None}
    assert unrolled_line(judged).endswith("not to be trusted, retrainings contradict it")
    assert "not to be trusted here, small as its growth is" in unrolled_sentence(judged)
    trusted = judged | {"trusted": True, "same_order": interval}
    assert "not to be trusted" not in unrolled_line(trusted) + unrolled_sentence(trusted)
    assert "in the same order with r = 0.10" in unrolled_sentence(trusted)
    assert "was not measured" in unrolled_sentence(CALM)


def test_a_chaotic_training_shows_no_correlation() -> None:
    said = unrolled_sentence({"correlation": None, "growth": 4000.0, "limit": 10.0, "chaotic": True})
    assert said.startswith("Training was chaotic")
    assert "grow to 4.00e+03 times their size, over the limit of 10" in said
    assert "correlation" not in said
    endless = unrolled_sentence({"correlation": None, "growth": None, "limit": 10.0, "chaotic": True})
    assert "grow without bound" in endless


def test_the_line_has_the_correlation_or_that_training_was_chaotic() -> None:
    assert unrolled_line(CALM).endswith("rank correlation with the scores −0.12 (−0.20 – 0.05)")
    chaotic = CALM | {"correlation": None, "growth": 4000.0, "chaotic": True}
    assert unrolled_line(chaotic).endswith(
        "training is chaotic, derivatives grow to 4.00e+03 times their size"
    )
    assert unrolled_line(None) == ""


def test_page_summary_and_terminal_have_it(images: Any) -> None:
    context = images.build()
    before = page(context.run, context.config, summary(context.run))
    assert "exact derivatives" not in before
    verification = read_json(context.run / "verification.json") | {"unrolled": CALM}
    write_json(context.run / "verification.json", verification)
    told = summary(context.run)
    assert told["unrolled"] == CALM
    assert unrolled_sentence(CALM) in page(context.run, context.config, told)
    assert headline(told)[-1] == unrolled_line(CALM)
