"""The verdict: what the differences between the arms prove, and on which measure.

Two quantities count, the metric and the loss. Each has an interval of 97.5 %, so that both hold together with 95 %.

- `improved`: one quantity is better than with `as_given` and with the random control, and the other quantity is not
  worse than with both.
- `worse`: one quantity is worse than with `as_given`, and the other one is not better.
- `no evidence`: neither holds.

If the arms are equally good, one of the two intervals lies above 0 with a probability of at most 2.5 %, and below 0
with at most 2.5 %. The comparison with the control can only lower the first probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.verification.measures import ANSWERED, BLIND, GIVEN, POSTERIOR, UNCONTRADICTED, Measured
from pipeline.verification.statistics import BOTH, SeedNoise, difference_interval, seed_noise

IMPROVED, WORSE, NO_EVIDENCE = "improved", "worse", "no evidence"
CLEANED, CONTROL = "cleaned - as_given", "cleaned - random_removal"
QUANTITIES = ("metric", "loss")
OPPOSITE = {IMPROVED: WORSE, WORSE: IMPROVED}

Differences = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""`{"cleaned - as_given": {"metric": {mean, low, high, higher_is_better}, "loss": …}, …}`."""


@dataclass(frozen=True)
class Verdict:
    """What verification proves.

    Attributes:
        word: `improved`, `worse` or `no evidence`.
        decided_by: the measure that the word rests on, or None.
        reason: why measures or quantities that disagree prove nothing, in a sentence, or empty.
        worse_than_random: if the word is `worse`, whether the arm is also worse than its random control; else None.
    """

    word: str
    decided_by: str | None
    reason: str = ""
    worse_than_random: bool | None = None


def compare(
    arm: Measured, other: Measured, noises: Mapping[str, SeedNoise], choices: int = 1
) -> dict[str, dict[str, Any]]:
    """The difference `arm` − `other`, paired by seed and row.

    Args:
        arm: results of the arm.
        other: results of the other arm on the same rows.
        noises: metric and loss → noise of retraining, from `noises_of`.
        choices: among how many arms the arm was chosen.

    Returns:
        metric and loss → the mean with its interval and `higher_is_better`; both intervals hold together with 95 %.
    """
    pairs = {"metric": arm.scores - other.scores, "loss": arm.losses - other.losses}
    return {
        name: difference_interval(values, BOTH, noises[name], choices).as_json()
        | {"higher_is_better": name == "metric"}
        for name, values in pairs.items()
    }


def noises_of(arms: Mapping[str, Measured]) -> dict[str, SeedNoise]:
    """The noise of retraining in the metric and the loss, pooled over the arms."""
    return {
        "metric": seed_noise(np.stack([arm.scores.mean(1) for arm in arms.values()])),
        "loss": seed_noise(np.stack([arm.losses.mean(1) for arm in arms.values()])),
    }


def _bounds(interval: Mapping[str, Any]) -> tuple[float, float]:
    """Low and high of an interval, with signs such that positive is better."""
    low, high = interval["low"], interval["high"]
    return (low, high) if interval["higher_is_better"] else (-high, -low)


def bearing(differences: Differences) -> str:
    """The quantity that a verdict rests on: `loss` if only the loss shows a difference, else `metric`."""
    metric, loss = (_bounds(differences[CLEANED][name]) for name in QUANTITIES)
    control = _bounds(differences[CONTROL]["metric"])
    shown = (metric[0] > 0 and control[0] > 0) or metric[1] < 0
    return "loss" if not shown and (loss[0] > 0 or loss[1] < 0) else "metric"


def finding(differences: Differences) -> str:
    """The word that the differences on one measure prove by themselves."""
    given = {name: _bounds(differences[CLEANED][name]) for name in QUANTITIES}
    random = {name: _bounds(differences[CONTROL][name]) for name in QUANTITIES}
    for name, other in (QUANTITIES, QUANTITIES[::-1]):
        if given[name][0] > 0 and random[name][0] > 0 and not (given[other][1] < 0 and random[other][1] < 0):
            return IMPROVED
    for name, other in (QUANTITIES, QUANTITIES[::-1]):
        if given[name][1] < 0 and not given[other][0] > 0:
            return WORSE
    return NO_EVIDENCE


def _opposed(differences: Differences) -> bool:
    """Whether metric and loss differ from 0 in opposite directions, both beyond their intervals."""
    (low, high), (other_low, other_high) = (_bounds(differences[CLEANED][name]) for name in QUANTITIES)
    return (low > 0 and other_high < 0) or (high < 0 and other_low > 0)


def verdict(measures: Mapping[str, Differences], clean: bool) -> Verdict:
    """Combine the measures into a verdict.

    If the labels are declared right, labels as given decide. Otherwise the posterior decides, that of judges that don't
    see the group if there is one. It proves nothing if another measure except labels as given proves the opposite, or
    if posteriors with and without the group are too far apart. Without a posterior, labels as given and uncontradicted
    rows must agree, since neither proves anything alone.

    Args:
        measures: measure → differences of the arms.
        clean: whether the labels of the measuring rows are declared right.
    """
    words = {name: finding(found) for name, found in measures.items()}
    if clean:
        return judged(measures, words, GIVEN)
    decider = next((name for name in (POSTERIOR + BLIND, POSTERIOR) if name in measures), None)
    if decider is None:
        return _without_posterior(measures, words)
    found = judged(measures, words, decider)
    for name in (POSTERIOR, UNCONTRADICTED + BLIND, UNCONTRADICTED, ANSWERED):
        if name == decider or name not in measures:
            continue
        if words[name] == OPPOSITE.get(found.word):
            return Verdict(
                NO_EVIDENCE, decider, f"{SAYS[decider]} say {found.word}, {SAYS[name]} {words[name]}."
            )
    proved = found.word != NO_EVIDENCE and decider == POSTERIOR + BLIND
    if proved and words.get(POSTERIOR) == NO_EVIDENCE and _far_apart(measures[decider], measures[POSTERIOR]):
        reason = "Judges with and without the columns that say where a row comes from disagree beyond the interval."
        return Verdict(NO_EVIDENCE, decider, reason)
    return found


SAYS = {
    GIVEN: "labels as given",
    POSTERIOR: "labels as likely as the judges find them",
    POSTERIOR + BLIND: "labels as likely as judges that don't see the group find them",
    UNCONTRADICTED: "rows that no judge contradicts",
    UNCONTRADICTED + BLIND: "rows that no judge without the group contradicts",
    ANSWERED: "rows that people answered for",
}
"""Measure → its name in a sentence."""


def _without_posterior(measures: Mapping[str, Differences], words: Mapping[str, str]) -> Verdict:
    if UNCONTRADICTED not in measures:
        reason = (
            "The holdout labels are as noisy as the train labels, and there are no judges of them: labels as given "
            "neither prove nor refuse."
        )
        return Verdict(NO_EVIDENCE, GIVEN, reason)
    given, other = words[GIVEN], words[UNCONTRADICTED]
    if given != other:
        reason = f"Without probabilities of the right labels two measures have to agree: {SAYS[GIVEN]} say {given}, "
        return Verdict(NO_EVIDENCE, UNCONTRADICTED, reason + f"{SAYS[UNCONTRADICTED]} {other}.")
    if other in OPPOSITE and words.get(ANSWERED) == OPPOSITE[other]:
        return Verdict(NO_EVIDENCE, UNCONTRADICTED, f"{SAYS[ANSWERED].capitalize()} say {words[ANSWERED]}.")
    return judged(measures, words, UNCONTRADICTED)


def judged(measures: Mapping[str, Differences], words: Mapping[str, str], decider: str) -> Verdict:
    """The verdict by the deciding measure alone."""
    word, found = words[decider], measures[decider]
    reason = ""
    if word == NO_EVIDENCE and _opposed(found):
        reason = "The metric and the loss point to opposite sides."
    below = None
    if word == WORSE:
        below = any(
            _bounds(found[CLEANED][name])[1] < 0 and _bounds(found[CONTROL][name])[1] < 0
            for name in QUANTITIES
        )
    return Verdict(word, decider, reason, below)


def _far_apart(one: Differences, other: Differences) -> bool:
    """Whether the mean of `other` lies outside the interval of `one`, in the metric or in the loss."""
    pairs = [(one[CLEANED][name], other[CLEANED][name]["mean"]) for name in QUANTITIES]
    return any(not interval["low"] <= mean <= interval["high"] for interval, mean in pairs)
