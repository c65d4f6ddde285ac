"""Makes lds.html: how well each method predicts retrainings, and the effect of removing its most harmful rows."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from pipeline.report import svg
from pipeline.report.pages import environment
from pipeline.text import words

SHOWN = {"mean_loss": "The mean validation loss", "single_losses": "Losses of single validation rows"}


def lds_page(found: dict[str, Any], name: str) -> str:
    """The page as HTML; `found` is the content of lds.json, `name` the name of the config."""
    questions = [(title, chart(found[key])) for key, title in SHOWN.items()]
    template = environment().get_template("lds.html.j2")
    return template.render(found=found, name=name, questions=questions, curve=curve(found["curve"]))


def chart(question: dict[str, Any]) -> dict[str, Any]:
    """The chart of one question: a line for each method, the most faithful first, and the ceiling."""
    methods, best = question["methods"], question["ceiling"]
    ends = [figures["lds"][end] for figures in methods.values() for end in ("low", "high")]
    scale = svg.domain([0.0, 1.0, *ends], 0.02)
    lines = []
    for method, figures in sorted(methods.items(), key=lambda entry: -entry[1]["lds"]["value"]):
        one = figures["lds"]
        said = words.interval(one)
        drawn = svg.interval(one["value"], one["low"], one["high"], scale, f"{method}: {said}")
        lines.append(
            {"method": method, "chart": drawn, "lds": said, "slope": words.interval(figures["slope"])}
        )
    axis = svg.axis(scale, lambda tick: f"{tick:g}")
    return {"lines": lines, "axis": axis, "ceiling": "" if best is None else words.interval(best)}


def curve(found: dict[str, Any]) -> dict[str, Any]:
    """The chart of the removal curve: the mean loss over seeds by the percentage of removed rows; and its numbers."""
    start = fmean(found["as_given"])
    series = [
        svg.Series(
            method,
            f"line-{place}",
            [(0.0, start)] + [(100 * point["share"], fmean(point["losses"])) for point in points],
        )
        for place, (method, points) in enumerate(found["methods"].items())
    ]
    drawn = svg.curves(series, None, lambda value: f"{value:.3g}", "validation loss by share of rows removed")
    shares = [point["share"] for point in next(iter(found["methods"].values()))]
    return {"lines": series, "chart": drawn, "shares": shares, "start": start}
