"""What a report says about fidelity: the level first, noise or scores as the cause, and what helps."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from pipeline.report.fidelity import fidelity_line, sentences, shown
from pipeline.report.group_effects import effect_lines
from pipeline.report.html import page
from pipeline.report.summary import headline, summary
from pipeline.runs.directory import read_json, write_json


def found(level: str, noise: float = 0.1) -> dict[str, Any]:
    return {
        "groups": 4,
        "removed_share": 0.1,
        "controls": 4,
        "predicted": [-0.02, -0.01, 0.01, 0.02],
        "measured": [-0.03, 0.0, 0.01, 0.02],
        "correlation": {"value": 0.81, "low": -0.1, "high": 0.9},
        "slope": {"value": 1.1, "low": 0.5, "high": 1.6},
        "noise": {
            "retraining": 0.004,
            "groups": 0.01,
            "share": {"value": noise, "low": 0.01, "high": 0.9},
            "ceiling": 0.5,
        },
        "level": level,
    }


def test_the_line_has_level_correlation_and_interval() -> None:
    assert fidelity_line(found("high")) == "fidelity of the scores: high, r 0.81 (−0.10 – 0.90)"
    assert fidelity_line(None) == ""


def test_high_fidelity_needs_no_advice() -> None:
    said = sentences(found("high"), "nats")
    assert said[0].startswith("High fidelity")
    assert not any("learning rate" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("noise", "cause"), [(0.8, "about 0.50, and no scores more"), (0.1, "probably the scores that miss")]
)
def test_low_fidelity_names_its_cause_and_what_helps(noise: float, cause: str) -> None:
    said = " ".join(sentences(found("low", noise), "nats"))
    assert said.startswith("Low fidelity")
    assert cause in said
    assert all(help in said for help in ("larger batches", "lower learning rate", "average", "ensemble"))
    assert "rests on signals of the early epochs" in said


def test_the_plot_has_a_dot_per_group() -> None:
    page = shown(found("low"), "nats")
    assert page is not None
    tree = ElementTree.fromstring(str(page.chart))
    dots = [each for each in tree.iter() if each.attrib.get("class") == "point"]
    places = [(float(d.attrib["cx"][:-1]), float(d.attrib["cy"][:-1])) for d in dots]
    assert len(places) == 4
    assert places == sorted(places)  # to the right with what was predicted
    assert [y for _, y in places] == sorted(
        (y for _, y in places), reverse=True
    )  # upwards with what was measured
    assert shown(None, "nats") is None


def test_page_and_headline_show_it(images: Any) -> None:
    context = images.build()
    verification = read_json(context.run / "verification.json") | {"fidelity": found("high")}
    write_json(context.run / "verification.json", verification)
    told = summary(context.run)
    assert told["fidelity"] == found("high")
    assert headline(told)[-1].endswith("fidelity of the scores: high, r 0.81 (−0.10 – 0.90)")
    text = page(context.run, context.config, told)
    assert "Fidelity of the scores" in text


def test_no_forecast_is_shown_where_fidelity_is_low(images: Any) -> None:
    context = images.build()
    group = {"class": 1, "column": None, "value": None, "most_harmful": 3, "predicted_loss_change": -0.5}
    group |= {"holdout_rows": 9, "metric": None, "loss": None, "worse": False}
    written = read_json(context.run / "verification.json") | {"groups": [group]}
    for level, forecast in (
        ("moderate", "−0.212"),
        ("low", "no forecast of the validation loss: fidelity is low"),
    ):
        write_json(context.run / "verification.json", written | {"fidelity": found(level)})
        told = summary(context.run)
        text = page(context.run, context.config, told)
        assert forecast in headline(told)[-1]
        assert (forecast in text) or (forecast.capitalize() in text)
        shows = level == "moderate"
        assert ("−0.212" in text) is shows
        assert (effect_lines(told, {})[0]["predicted"] == "−0.500") is shows
        assert (told["predicted_loss_change"] == -0.212) is shows
        assert ("is in verification.json" in text) is not shows
