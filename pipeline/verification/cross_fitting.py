"""Validation and holdout rows as one measuring set: each role chooses the arm that the other one measures.

Where neither role's labels are declared right, both were cut from the same noisy file, nothing was trained on either,
and nothing about a train row was decided by either. Half of these rows would be idle if one role only chose and the
other only proved. So the arm that the validation rows choose is measured on the holdout rows and the other way round,
and what is measured on both is put together (cross-fitting: Chernozhukov et al. 2018, arXiv 1608.00060). No row proves
an arm that it chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.verification.measures import Evidence
from pipeline.verification.results import ArmResult, RoleResult


def can_cross_fit(validation: Evidence | None, holdout: Evidence) -> bool:
    """Whether neither role has labels that are declared right, and validation rows measure all that holdout rows do."""
    if validation is None or len(validation.given) < 2 or validation.clean or holdout.clean:
        return False
    same_posterior = holdout.posterior.keys() <= validation.posterior.keys()
    return same_posterior and holdout.contradicted.keys() <= validation.contradicted.keys()


def both_roles(on_validation: ArmResult, on_holdout: ArmResult) -> ArmResult:
    """The first arm on the validation rows and the second one on the holdout rows, as one arm on all of them."""
    assert on_validation.validation is not None
    rows = joined(on_validation.validation, on_holdout.holdout)
    return replace(on_holdout, holdout=rows)


def joined(first: RoleResult, second: RoleResult) -> RoleResult:
    """One after the other along the rows."""

    def along(name: str) -> np.ndarray | None:
        one, two = getattr(first, name), getattr(second, name)
        return None if one is None or two is None else np.concatenate([one, two], axis=1)

    return RoleResult(
        np.concatenate([first.scores, second.scores], axis=1),
        np.concatenate([first.losses, second.losses], axis=1),
        along("top"),
        along("log_probabilities"),
    )


def both_evidences(validation: Evidence, holdout: Evidence) -> Evidence:
    """What is known about the labels of both, in the order of `both_roles`; what one of them lacks is left out."""

    def shared(name: str) -> dict[str, np.ndarray]:
        first: Mapping[str, np.ndarray] = getattr(validation, name)
        second: Mapping[str, np.ndarray] = getattr(holdout, name)
        return {each: np.concatenate([first[each], second[each]]) for each in first if each in second}

    answered, answers = None, None
    if validation.answered is not None or holdout.answered is not None:
        parts = (validation, holdout)
        answered = np.concatenate(
            [np.zeros(len(e.given), dtype=bool) if e.answered is None else e.answered for e in parts]
        )
        answers = np.concatenate([e.given if e.answers is None else e.answers for e in parts])
    return Evidence(
        False,
        np.concatenate([validation.given, holdout.given]),
        shared("posterior"),
        shared("contradicted"),
        answered,
        answers,
    )
