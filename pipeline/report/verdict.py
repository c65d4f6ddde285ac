"""The verdict of verification in sentences: the claim, its numbers, its control and its consequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.tasks.registry import TASKS
from pipeline.text import words
from pipeline.text.decisions import CHANGED

Summary = dict[str, Any]
DONE = {
    "removed": "removing",
    "relabelled": "relabelling (as the judges predict)",
    "mixed": "removing and relabelling (as the judges predict)",
}
"""Exported arm → what its control does, in words."""


@dataclass(frozen=True)
class Verdict:
    """The verdict in words; a string is empty if there is nothing to say.

    Attributes:
        word: IMPROVED, NO EVIDENCE, WORSE or NOT TESTED.
        title: the claim as a heading, without the numbers that stand below it.
        claim: what cleaning does, in a sentence without a full stop.
        numbers: the metric before and after, with its interval.
        control: the metric of the random control.
        consequence: what was exported.
        further: the loss with its interval and control, the rows that measure, and why measures that disagree prove
            nothing.
    """

    word: str
    title: str
    claim: str
    numbers: str
    control: str
    consequence: str
    further: tuple[str, ...] = ()


def verdict(summary: Summary) -> Verdict:
    """Put the finding of verification into words; `summary` comes from `pipeline.report.summary.summary`."""
    word = summary["verdict"].upper()
    if "cleaned - as_given" not in summary["differences"]:
        note = (summary["note"] or "no retraining was made").rstrip(".")
        return Verdict(word, "whether cleaning helps was not tested", note, "", "", consequence(summary))
    quantity = _telling(summary)
    gain = summary["differences"]["cleaned - as_given"][quantity]
    metric = words.metric(summary["metric"]) if quantity == "metric" else "loss"
    if summary["verdict"] == "no evidence":
        title = f"nothing here shows that {_what_was_done(summary)} helps"
        claim = f"cleaning changes {_measuring_roles(summary)} {metric} by {change(gain, summary['metric'])}"
    else:
        verb = "raises" if gain["mean"] > 0 else "lowers"
        title = claim = f"{_what_was_done(summary)} {verb} {_measuring_roles(summary)} {metric}"
    said = numbers(summary), *further(summary)
    if quantity == "loss":  # the quantity that the verdict rests on comes first
        said = words.sentence(said[1]), f"{words.metric(summary['metric'])} {said[0]}", *said[2:]
    return Verdict(word, title, claim, said[0], control(summary), consequence(summary), said[1:])


def _telling(summary: Summary) -> str:
    """The quantity to name: `loss` if the verdict rests on the loss alone, else `metric`."""
    difference, better = summary["differences"]["cleaned - as_given"], summary["verdict"] == "improved"
    if summary["verdict"] == "no evidence" or summary.get("decided_by") is None:
        return "metric"
    low, high = difference["metric"]["low"], difference["metric"]["high"]
    shown = low > 0 if better == summary["higher_is_better"] else high < 0
    return "metric" if shown else "loss"


def further(summary: Summary) -> tuple[str, ...]:
    """Further sentences; empty for runs of earlier versions, which name no measure."""
    if summary.get("decided_by") is None:
        return ()
    return tuple(filter(None, (loss(summary), _measured_on(summary), _disagreement(summary))))


def loss(summary: Summary) -> str:
    """`loss .269 → .231 (−.038, 95 % interval −.045 … −.031); random control .245`."""
    arms, gain = summary["arms"], summary["differences"]["cleaned - as_given"]["loss"]
    before, after, random = (
        f"{arms[name]['loss']:.3f}" for name in ("as_given", "cleaned", "random_removal")
    )
    mean, low, high = (f"{gain[end]:+.3f}".replace("-", "−") for end in ("mean", "low", "high"))
    return f"loss {before} → {after} ({mean}, 95 % interval {low} … {high}); random control {random}"


def _measuring_roles(summary: Summary) -> str:
    """`holdout`, or `validation and holdout` if both roles measure."""
    return " and ".join((summary.get("holdout") or {}).get("roles") or ["holdout"])


def _measured_on(summary: Summary) -> str:
    """Which labels the verdict rests on, and how noisy they are estimated to be."""
    holdout, measure = summary["holdout"], summary["measures"][summary["decided_by"]]
    roles = _measuring_roles(summary)
    said = f"measured on {words.rows(measure['rows'])} of the {roles}: {measure['words']}"
    if holdout["labels"] == "clean":
        return f"{said}, which are declared right"
    wrong = holdout["wrong_share"]
    return said if wrong is None else f"{said}; {words.percent(wrong)} of the {roles} labels look wrong"


def _disagreement(summary: Summary) -> str:
    if summary["verdict"] == "worse":
        also = summary["worse_than_random"]
        return (
            "it is worse than its random control too"
            if also
            else "it is not shown to be worse than its random control"
        )
    return (summary.get("reason") or "").rstrip(".")


def levels(summary: Summary) -> str:
    """`as given 92.3 % → cleaned 96.5 %; 5 retrainings each`."""
    before, after = (
        words.level(summary["arms"][name]["metric"], summary["metric"]) for name in ("as_given", "cleaned")
    )
    return f"as given {before} → cleaned {after}; {summary['arms']['cleaned']['seeds']} retrainings each"


def change(interval: dict[str, float], metric: str) -> str:
    """`+1.8 (95 % interval +1.1 … +2.4)`."""
    mean, low, high = words.changes([interval["mean"], interval["low"], interval["high"]], metric)
    return f"{mean} (95 % interval {low} … {high})"


def _what_was_done(summary: Summary) -> str:
    removed, relabelled = (summary["decisions"][name] for name in CHANGED)
    share = words.percent((removed + relabelled) / max(1, summary["rows_audited"]))
    if removed and relabelled:
        return f"removing {words.count(removed)} and relabelling {words.rows(relabelled)} ({share})"
    if relabelled:
        return f"relabelling {words.rows(relabelled)} ({share})"
    return f"removing {words.rows(removed)} ({share})"


def numbers(summary: Summary) -> str:
    metric, arms = summary["metric"], summary["arms"]
    gain = summary["differences"]["cleaned - as_given"]["metric"]
    mean, low, high = words.changes([gain["mean"], gain["low"], gain["high"]], metric)
    before, after = (words.level(arms[name]["metric"], metric) for name in ("as_given", "cleaned"))
    seeds = arms["cleaned"]["seeds"]
    return f"{before} → {after}  ({mean}, 95 % interval {low} … {high}; {seeds} retrainings each)"


def control(summary: Summary) -> str:
    alike = TASKS[summary["task"]].alike
    value = words.level(summary["arms"]["random_removal"]["metric"], summary["metric"])
    done = DONE[summary.get("exported") or "removed"]
    text = f"{done} as many random rows of the same {alike}: {value}"
    if summary["verdict"] == "no evidence" and _is_gain(summary, "cleaned - as_given"):
        text += "; the gain over that is not shown"
    return text


def _is_gain(summary: Summary, difference: str) -> bool:
    """Whether the whole interval of a difference lies on the better side of 0."""
    interval = summary["differences"][difference]["metric"]
    return interval["low"] > 0 if summary["higher_is_better"] else interval["high"] < 0


def disarmed(summary: Summary) -> bool:
    """Whether triggers were measured, and cleaning more than halved the success of every one."""
    measured = [found for found in summary["backdoors"] if found["before"] is not None]
    return bool(measured) and all(found["after"] < found["before"] / 2 for found in measured)


def consequence(summary: Summary) -> str:
    refused = summary["export"]["refused"]
    if summary["export"].get("skipped"):
        return "Nothing was exported."
    if refused:
        return f"cleaned/ was not written (verification.gate: {summary['export']['gate']})."
    if refused is None or summary["verdict"] == "improved":
        return ""
    supported = summary["export"].get("gate") == "supported"
    if summary["export"].get("proposed"):
        return "cleaned/ has what was proposed, as asked; nothing here shows that it helps."
    left = sum((summary.get("proposed") or {}).values())
    if left and supported:
        rows = f"{words.rows(left)} {'is' if left == 1 else 'are'} left for review"
        return f"cleaned/ was written without the changes that this does not support: {rows}."
    if summary["verdict"] == "no evidence" and disarmed(summary):
        return "cleaned/ was written: the model is about as good with it, and the trigger no longer works."
    if supported and not any(summary["decisions"][name] for name in CHANGED):
        return "cleaned/ has the rows as they were given."
    if supported:
        return "cleaned/ has the rows as they were given, but for what people decided and what is proved otherwise."
    if summary["verdict"] == "no evidence":
        return "cleaned/ was written as asked; nothing here shows that it helps."
    if summary["verdict"] == "worse":
        return "cleaned/ was written regardless (verification.gate: off); it is the worse dataset."
    if not any(summary["decisions"][name] for name in CHANGED):
        return "cleaned/ is a copy of what was given."
    return "cleaned/ was written as asked; whether it helps was not tested."
