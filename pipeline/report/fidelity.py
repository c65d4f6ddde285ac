"""Shows how faithful the audit's scores are: a line, sentences and a plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipeline.report import svg
from pipeline.text import words

MOSTLY_NOISE = 0.5
"""From this share of noise in the variance between groups, noise is named as the main obstacle."""
HELP = (
    "What makes training smoother helps: larger batches (training.batch_size), a lower learning rate, fewer epochs "
    "or some weight decay, a longer average of the last iterates (training.tail); so does an ensemble, scores averaged "
    "over several trainings (attribution.ensemble)"
)
LEVELS = {
    "high": "High fidelity: where the scores predict a change, retraining measures much the same",
    "moderate": "Moderate fidelity: the scores predict what retraining measures in part",
    "low": "Low fidelity: the scores hardly predict what retraining measures",
}


@dataclass(frozen=True)
class Shown:
    """What the page shows: sentences, and a scatter plot of measured against predicted changes."""

    sentences: list[str]
    chart: Markup


def fidelity_line(found: dict[str, Any] | None) -> str:
    """`fidelity of the scores: high, r 0.87 (0.66 – 0.97)`; empty if fidelity was not measured."""
    if found is None:
        return ""
    line = f"fidelity of the scores: {found['level']}, r {words.interval(found['correlation'])}"
    same = found.get("same_order")
    return line if same is None else f"{line}; in the same order r {words.interval(same['correlation'])}"


def low_fidelity(found: dict[str, Any] | None) -> bool:
    return found is not None and found["level"] == "low"


def shown(found: dict[str, Any] | None, unit: str) -> Shown | None:
    """The sentences and the plot; None if fidelity was not measured. `unit` is the unit of the loss, in words."""
    if found is None:
        return None
    name = f"measured against predicted change of the validation loss in {unit}, a dot per group"
    points = list(zip(found["predicted"], found["measured"]))
    chart = svg.scatter(points, found["slope"]["value"], words.number, name)
    return Shown(sentences(found, unit), chart)


def sentences(found: dict[str, Any], unit: str) -> list[str]:
    """Sentences about the result of fidelity, the share of noise in it and, unless fidelity is high, what helps."""
    done = (
        f"{LEVELS[found['level']]}. {words.count(found['groups'])} random groups of "
        f"{words.percent(found['removed_share'], 0)} of the rows were left out and the model retrained: predicted "
        f"and measured change of the validation loss correlate with r = {words.interval(found['correlation'])}, and "
        f"the measured change is {words.interval(found['slope'])} times the predicted one (in brackets 95 % intervals)."
    )
    noise = found["noise"]
    share = noise["share"]
    said = (
        f"Retrainings of all rows in other orders differ by ±{words.number(noise['retraining'])} "
        f"{unit}, those without a group by ±{words.number(noise['groups'])}: about {words.percent(share['value'], 0)} "
        f"of what was measured is noise ({words.percent(share['low'], 0)} – {words.percent(share['high'], 0)})"
    )
    smooth = (
        "So smoothly training answers to its rows, by these retrainings: perfect scores would reach a correlation of "
        f"about {noise['ceiling']:.2f}"
    )
    fixed = [same_order_sentence(found)] if "same_order" in found else []
    if found["level"] == "high":
        return [done, f"{said}. {smooth}.", *fixed]
    if share["value"] >= MOSTLY_NOISE:
        why = ", and no scores more than that. It is probably the training that doesn’t answer reproducibly."
    else:
        why = ". It is probably the scores that miss, and not the retrainings that differ by chance."
    rest = (
        f"{HELP}. Which rows are flagged rests on signals of the early epochs as well, not on these scores alone; "
        "what rests on them alone are harm and the forecast of the loss."
    )
    return [done, f"{said}. {smooth}{why}", *fixed, rest]


def same_order_sentence(found: dict[str, Any]) -> str:
    """How well the scores predict with the order of training fixed, and how much of the infidelity is noise."""
    same = found["same_order"]
    left = 1 - max(0.0, found["correlation"]["value"]) ** 2
    done = (
        "The main training was repeated without each group, with the same start and the same order of the rows: "
        f"predicted and measured change correlate with r = {words.interval(same['correlation'])}, and the measured "
        f"change is {words.interval(same['slope'])} times the predicted one."
    )
    noise = same["noise_of_infidelity"]
    if noise is None:
        return done
    share = (
        f"Across seeds the scores leave {words.percent(left, 0)} of the variance unexplained. "
        f"{words.sentence(words.percent(noise['value'], 0))} of that goes away with the order fixed and is noise of "
        f"training ({words.percent(noise['low'], 0)} – {words.percent(noise['high'], 0)})"
    )
    rest = "; the scores miss the rest" if noise["value"] < 1 else ""
    most = words.interval(same["across"])
    exact = f"Scores that are exact for this one training would reach r = {most} across seeds."
    return f"{done} {share}{rest}. {exact}"
