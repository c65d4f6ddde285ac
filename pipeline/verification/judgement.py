"""Computes the part of verification.json that follows from the retrainings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.text.arms import AS_GIVEN, RANDOM_OF
from pipeline.verification.choice import ArmChoice
from pipeline.verification.cross_fitting import both_roles
from pipeline.verification.measures import GIVEN, Evidence, Measured, measure_arm
from pipeline.verification.results import ArmResult
from pipeline.verification.statistics import seed_interval, seen_gain
from pipeline.verification.verdict import (
    CLEANED,
    QUANTITIES,
    SAYS,
    bearing,
    compare,
    finding,
    noises_of,
    verdict,
)

CLEAN, NOISY = "clean", "as noisy as train"


@dataclass(frozen=True)
class Retrained:
    """All retrainings of a verification and the arm that was chosen.

    Attributes:
        results: name → results of `as_given`, of all arms, and of the controls of the arms that are measured.
        choice: the chosen arm.
    """

    results: Mapping[str, ArmResult]
    choice: ArmChoice

    def named(self) -> dict[str, ArmResult]:
        """All results by name; the exported arm and its control are also called `cleaned` and `random_removal`."""
        arm = self.choice.arm
        exported = {
            AS_GIVEN: self.results[AS_GIVEN],
            "cleaned": self.results[arm],
            "random_removal": self.results[RANDOM_OF + arm],
        }
        return exported | {name: result for name, result in self.results.items() if name != AS_GIVEN}

    def on_measuring_rows(self) -> dict[str, ArmResult]:
        """The results of `named` on the measuring rows: holdout, and with cross-fitting also validation."""
        crossed = self.choice.crossed
        if crossed is None:
            return self.named()
        own, control = (
            both_roles(*(self.results[kind + crossed[role]] for role in ("validation", "holdout")))
            for kind in ("", RANDOM_OF)
        )
        exported = {"cleaned": own, "random_removal": control}
        return {name: both_roles(result, result) for name, result in self.named().items()} | exported

    @property
    def arms(self) -> int:
        """How many arms there were to choose from."""
        return sum(name != AS_GIVEN and not name.startswith(RANDOM_OF) for name in self.results)


def judge(found: Retrained, evidence: Evidence) -> dict[str, Any]:
    """Compute verdict, arms, differences and measures as JSON values for verification.json.

    Args:
        found: the retrainings.
        evidence: what is known about the labels of the measuring rows (`Retrained.on_measuring_rows`).
    """
    named, rows = found.on_measuring_rows(), found.choice.proving
    measured = {name: measure_arm(result.holdout, evidence, rows) for name, result in named.items()}
    measures = {name: _differences_on(found, measured, name) for name in measured[AS_GIVEN]}
    reached = verdict(measures, evidence.clean)
    decider = reached.decided_by or GIVEN
    cleaned, given = named["cleaned"].validation_losses, named[AS_GIVEN].validation_losses
    rested = bearing(measures[decider])
    deciding = {
        name: of_pair | {decider: measures[decider][name][rested]}
        for name, of_pair in measures[GIVEN].items()
    }
    return {
        "verdict": reached.word,
        "decided_by": reached.decided_by,
        "reason": reached.reason,
        "worse_than_random": reached.worse_than_random,
        "exported": found.choice.arm,
        "chosen_on": {"role": found.choice.role, "measure": found.choice.measure},
        "holdout": {
            "roles": ["holdout"] if found.choice.crossed is None else list(found.choice.crossed),
            "labels": CLEAN if evidence.clean else NOISY,
            "rows": int(measured[AS_GIVEN][GIVEN].scores.shape[1]),
            "wrong_share": evidence.wrong_share,
            "contradicted_share": evidence.contradicted_share,
        },
        "power": {quantity: _half_seen(measures[decider][CLEANED][quantity]) for quantity in QUANTITIES},
        "arms": {
            name: result.as_json(rows) | {"measures": means(measured[name])} for name, result in named.items()
        },
        "differences": deciding,
        "measures": {
            name: {
                "words": SAYS[name],
                "rows": int(measured[AS_GIVEN][name].scores.shape[1]),
                "finding": finding(differences),
                "differences": differences,
            }
            for name, differences in measures.items()
        },
        "measured_loss_change": None
        if cleaned is None or given is None
        else seed_interval(cleaned - given).as_json(),
    }


def _differences_on(
    found: Retrained, measured: Mapping[str, Mapping[str, Measured]], measure: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """The differences on one measure: of every arm to `as_given`, and of the exported arm to its control as well."""
    arms = {name: of_arm[measure] for name, of_arm in measured.items()}
    noises, choices = noises_of({name: arms[name] for name in found.results}), found.arms
    arm, control = arms["cleaned"], arms["random_removal"]
    differences = {
        CLEANED: compare(arm, arms[AS_GIVEN], noises, choices),
        "cleaned - random_removal": compare(arm, control, noises, choices),
    }
    for name in found.results:
        if name != AS_GIVEN:
            differences[f"{name} - {AS_GIVEN}"] = compare(arms[name], arms[AS_GIVEN], noises, choices)
    return differences


def means(measured: Mapping[str, Measured]) -> dict[str, dict[str, list[float]]]:
    """Measure → means of metric and loss over the rows of the measure, one per seed."""
    return {
        name: {"metric": found.scores.mean(1).tolist(), "loss": found.losses.mean(1).tolist()}
        for name, found in measured.items()
    }


def _half_seen(interval: Mapping[str, float]) -> float:
    """The smallest gain that would have been detected with a probability of 80 %, from the width of an interval."""
    return float(np.abs(seen_gain((interval["high"] - interval["low"]) / 2)))
