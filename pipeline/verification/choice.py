"""Which arm is exported: the best of those retrained, on rows that don't prove it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.seeds import random_state
from pipeline.verification.arms import AS_GIVEN
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
class Choice:
    """arm: the chosen one; role: whose rows chose it, or None where there was nothing to choose; measure: on what;
    proving: bool `[holdout rows]`, those that the choice did not see, or None for all of them.
    """

    arm: str
    role: str | None = None
    measure: str | None = None
    proving: np.ndarray | None = None


def choose(
    results: Mapping[str, ArmResult], validation: Evidence | None, holdout: Evidence, seed: int
) -> Choice:
    """The best of the arms on the validation rows, else on a random half of the holdout rows.

    results: `as_given` and the arms.
    """
    arms = [name for name in results if name != AS_GIVEN]
    if len(arms) == 1:
        return Choice(arms[0])
    if validation is not None and len(validation.given) > 1:
        roles = {name: result.validation for name, result in results.items()}
        arm, measure = best({n: r for n, r in roles.items() if r is not None}, validation, None)
        return Choice(arm, "validation", measure)
    rows = len(holdout.given)
    choosing = np.zeros(rows, dtype=bool)
    choosing[random_state("choose arm", seed).permutation(rows)[: rows // 2]] = True
    arm, measure = best({name: result.holdout for name, result in results.items()}, holdout, choosing)
    return Choice(arm, "holdout", measure, ~choosing)


def best(results: Mapping[str, RoleResult], evidence: Evidence, rows: np.ndarray | None) -> tuple[str, str]:
    """The arm with the largest gain over as given, and the measure: clean labels, else the posterior, else as given.

    The gains in metric and loss are each counted in the half-width of their interval, the mean of the arms', and added.
    """
    measured = {name: measure_arm(result, evidence, rows) for name, result in results.items()}
    order = [GIVEN] if evidence.clean else [POSTERIOR + BLIND, POSTERIOR, GIVEN]
    measure = next(name for name in order if name in measured[AS_GIVEN])
    given = measured[AS_GIVEN][measure]
    arms = [name for name in results if name != AS_GIVEN]
    gains = sum(standardised([measured[arm][measure] for arm in arms], given))
    return arms[int(np.argmax(gains))], measure


def standardised(arms: list[Measured], given: Measured) -> list[np.ndarray]:
    """Gains `[arms]` in metric and loss over `given`, in units of the mean half-width."""
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
