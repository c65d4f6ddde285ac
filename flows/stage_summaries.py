"""What a finished stage found out, in one line of words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.report.trial import trial_words
from pipeline.text import words

Facts = dict[str, Any]


def sentence(stage: str, facts: Facts) -> str:
    return SENTENCES[stage](facts)


def prepare(facts: Facts) -> str:
    roles = {role: count for role, count in facts["rows"].items() if count}
    parts = ", ".join(f"{words.count(count)} {role}" for role, count in roles.items())
    return f"{words.rows(sum(roles.values()))} → {parts}"


def train(facts: Facts) -> str:
    parts = [words.plural(facts["epochs"], "epoch"), words.plural(facts["checkpoints"], "checkpoint")]
    if facts.get("trial"):
        parts = [trial_words(facts["trial"])]
    if facts["validation_metric"] is not None:
        name = facts["metric"]
        parts.append(f"validation {words.metric(name)} {words.level(facts['validation_metric'], name)}")
    return ", ".join(parts)


def factors(facts: Facts) -> str:
    what = f"{words.plural(facts['checkpoints'], 'checkpoint')} × {words.plural(facts['layers'], 'layer')}"
    return f"{what}, {words.percent(facts['coverage']['share'], 0)} of the parameters"


def attribute(facts: Facts) -> str:
    return f"{words.rows(facts['rows'])} scored"


def panel(facts: Facts) -> str:
    count = len(facts["judges"])
    if not count:
        return "not asked for"
    left_out = sum(not judge["counts"] for judge in facts["judges"])
    more = f", {words.count(left_out)} left out as clearly worse" if left_out else ""
    return f"{words.plural(count, 'judge')}, each over {words.plural(facts['folds'], 'fold')}{more}"


def detect(facts: Facts) -> str:
    rule = (facts.get("promise") or {}).get("rule")
    if rule in ("trusted", "reviewed"):  # these remove what they can vouch for, not what looks wrong
        changed = facts["removed"] + facts["relabelled"]
        text = f"rule {rule} takes out {words.rows(changed)}, {words.count(facts['to_review'])} to look at"
    else:
        more = facts["review"] - facts["likely_wrong"]
        look = "looks" if facts["likely_wrong"] == 1 else "look"
        text = f"{words.rows(facts['likely_wrong'])} {look} wrong, {words.count(more)} more to look at"
    return f"{text}; {facts['caps']}" if facts["caps"] else text


def verify(facts: Facts) -> str:
    further = facts.get("fidelity_retrainings", 0)
    more = f"; {words.count(further)} more for fidelity" if further else ""
    if not facts["retrainings"]:
        return f"not tested: no retrainings{more}"
    return f"{words.plural(facts['retrainings'], 'retraining')}: {facts['verdict']}{more}"


def export(facts: Facts) -> str:
    if facts.get("skipped"):
        return str(facts["skipped"])
    if facts["refused"]:
        return f"refused (verdict: {facts['verdict']}), nothing was written"
    parts = [f"{words.rows(facts['rows_kept'])} kept", f"{words.count(facts['rows_removed'])} removed"]
    if facts["rows_relabelled"]:
        parts.append(f"{words.count(facts['rows_relabelled'])} relabelled")
    text = ", ".join(parts)
    return f"{text}; as proposed, whatever verification says" if facts.get("proposed") else text


def report(facts: Facts) -> str:
    return str(facts["page"])


SENTENCES: dict[str, Callable[[Facts], str]] = {
    function.__name__: function
    for function in (prepare, train, factors, attribute, panel, detect, verify, export, report)
}
