"""Chooses the arm that is exported: the best one, measured on rows that do not prove its gain afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.seeds import random_state
from pipeline.text.arms import AS_GIVEN
from pipeline.verification.cross_fitting import both_evidences, both_roles, can_cross_fit
from pipeline.verification.measures import (
    BLIND,
    GIVEN,
    POSTERIOR,
    Evidence,
    Measured,
    measure_arm,
)
from pipeline.verification.results import ArmResult, RoleResult
from pipeline.verification.statistics import difference_interval


@dataclass(frozen=True)
class ArmChoice:
    """Which arm was chosen, and how.

    Attributes:
        arm: the chosen arm.
        role: the role whose rows chose it; None if there was only one arm.
        measure: the measure that chose it; None if there was only one arm.
        proving: bool `[holdout rows]`, rows that the choice did not use; None if it used no holdout rows, or with
            cross-fitting.
        crossed: with cross-fitting, role → the arm that is measured there, which the other role chose; else None.
    """

    arm: str
    role: str | None = None
    measure: str | None = None
    proving: np.ndarray | None = None
    crossed: Mapping[str, str] | None = None


def choose(
    results: Mapping[str, ArmResult], validation: Evidence | None, holdout: Evidence, seed: int
) -> ArmChoice:
    """Choose the best arm: by cross-fitting, or else on the validation rows, or else on a random half of the holdout.

    Args:
        results: the results of `as_given` and of all arms.
        validation: what is known about the validation labels; None without validation rows.
        holdout: what is known about the holdout labels.
        seed: draws the half of the holdout rows.
    """
    arms = [name for name in results if name != AS_GIVEN]
    crossed = can_cross_fit(validation, holdout)
    if len(arms) == 1:
        return ArmChoice(
            arms[0], crossed=dict.fromkeys(("validation", "holdout"), arms[0]) if crossed else None
        )
    if crossed and validation is not None:
        return cross(results, validation, holdout)
    if validation is not None and len(validation.given) > 1:
        roles = {name: result.validation for name, result in results.items()}
        arm, measure = _best({n: r for n, r in roles.items() if r is not None}, validation, None)
        return ArmChoice(arm, "validation", measure)
    rows = len(holdout.given)
    choosing = np.zeros(rows, dtype=bool)
    choosing[random_state("choose arm", seed).permutation(rows)[: rows // 2]] = True
    arm, measure = _best({name: result.holdout for name, result in results.items()}, holdout, choosing)
    return ArmChoice(arm, "holdout", measure, ~choosing)


def cross(results: Mapping[str, ArmResult], validation: Evidence, holdout: Evidence) -> ArmChoice:
    """Choose by cross-fitting: each role chooses the arm that is measured on the other role.

    If the roles choose different arms, the exported one is the better one on the rows of both roles together.
    """
    on_validation = {name: result.validation for name, result in results.items()}
    by_validation, measure = _best(
        {n: r for n, r in on_validation.items() if r is not None}, validation, None
    )
    by_holdout, _ = _best({name: result.holdout for name, result in results.items()}, holdout, None)
    both = {
        name: both_roles(results[name], results[name]).holdout
        for name in (AS_GIVEN, by_validation, by_holdout)
    }
    arm, _ = _best(both, both_evidences(validation, holdout), None)
    return ArmChoice(
        arm, "validation and holdout", measure, crossed={"validation": by_holdout, "holdout": by_validation}
    )


def _best(results: Mapping[str, RoleResult], evidence: Evidence, rows: np.ndarray | None) -> tuple[str, str]:
    """Choose the arm with the largest sum of standardised gains over `as_given`, in metric and in loss.

    Args:
        results: name → results on the rows of one role.
        evidence: what is known about their labels.
        rows: bool `[rows]`, rows that choose; None takes all.

    Returns:
        The arm, and the measure that chose it: labels as given if they are declared right, or else the posterior if
        there is one, or else labels as given.
    """
    measured = {name: measure_arm(result, evidence, rows) for name, result in results.items()}
    order = [GIVEN] if evidence.clean else [POSTERIOR + BLIND, POSTERIOR, GIVEN]
    measure = next(name for name in order if name in measured[AS_GIVEN])
    given = measured[AS_GIVEN][measure]
    arms = [name for name in results if name != AS_GIVEN]
    gains = sum(_standardised([measured[arm][measure] for arm in arms], given))
    return arms[int(np.argmax(gains))], measure


def _standardised(arms: list[Measured], given: Measured) -> list[np.ndarray]:
    """The gains of the arms over `given`, in metric and in loss: two arrays `[arms]`.

    Each gain is divided by the mean width of the arms' 95 % intervals.
    """
    found = []
    for differences in (
        [arm.scores - given.scores for arm in arms],
        [given.losses - arm.losses for arm in arms],
    ):
        intervals = [difference_interval(each) for each in differences]
        scale = np.mean([interval.high - interval.low for interval in intervals])
        means = np.array([interval.mean for interval in intervals])
        found.append(means / scale if scale > 0 else np.zeros(len(arms)))
    return found
