"""What signals and arms are called in a report."""

from __future__ import annotations

from dataclasses import dataclass

ARMS = {
    "as_given": "as given",
    "cleaned": "cleaned",
    "random_removal": "random control",
    "removed": "removed",
    "relabelled": "relabelled",
    "mixed": "removed and relabelled",
}


@dataclass(frozen=True)
class Signal:
    """`label` says what a long bar means."""

    label: str
    high_is_suspicious: bool


SIGNALS = {
    "panel_wrong": Signal("label improbable", True),
    "panel_residual": Signal("far from predictions", True),
    "panel_linear": Signal("linear model differs", False),
    "panel_naive_bayes": Signal("naive Bayes differs", False),
    "panel_boosting": Signal("boosting differs", False),
    "panel_extra_trees": Signal("random trees differ", False),
    "panel_neighbours": Signal("neighbours differ (panel)", False),
    "early_margin": Signal("prefers other label", False),
    "early_loss": Signal("hard to learn", True),
    "early_harm": Signal("harms validation", True),
    "neighbour_margin": Signal("neighbours differ", False),
    "clean_neighbours": Signal("clean neighbours differ", False),
    "half_confidence": Signal("hard to predict", False),
    "final_loss": Signal("badly fitted", True),
    "forgetting": Signal("forgotten", True),
    "self_influence": Signal("memorised", True),
    "validation_harm": Signal("harms validation, whole run", True),
    "worst_group_harm": Signal("harms a class or slice", True),
    "gradient_norm": Signal("pulls at the last layer", True),
    "representation_outlier": Signal("unlike its class", True),
    "near_duplicate": Signal("near copies differ", True),
}


def signal(name: str) -> Signal:
    """The vocabulary's entry, or one made of the column's own name (then high is taken as suspicious)."""
    return SIGNALS.get(name, Signal(name.replace("_", " "), True))
