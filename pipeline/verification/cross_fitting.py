"""Cross-fitting: validation and holdout rows together measure the arms, and each role chooses for the other.

If neither role has labels that are declared right, both roles come from the same noisy file. No model was trained on
them, and no decision about a train row used them. If one role only chose an arm and the other only proved it, each row
would serve one purpose alone. So the arm that the validation rows choose is measured on the holdout rows, and the arm
that the holdout rows choose is measured on the validation rows. The two measurements are joined (Chernozhukov et al.
2018, arXiv 1608.00060). No row proves an arm that it helped to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.verification.measures import Evidence
from pipeline.verification.results import ArmResult, RoleResult


def can_cross_fit(validation: Evidence | None, holdout: Evidence) -> bool:
    """Whether no role has labels that are declared right, and validation has every measure that holdout has."""
    if validation is None or len(validation.given) < 2 or validation.clean or holdout.clean:
        return False
    same_posterior = holdout.posterior.keys() <= validation.posterior.keys()
    return same_posterior and holdout.contradicted.keys() <= validation.contradicted.keys()


def both_roles(on_validation: ArmResult, on_holdout: ArmResult) -> ArmResult:
    """Join the first result on the validation rows and the second one on the holdout rows, as a result on all rows."""
    assert on_validation.validation is not None
    rows = _joined(on_validation.validation, on_holdout.holdout)
    return replace(on_holdout, holdout=rows)


def _joined(first: RoleResult, second: RoleResult) -> RoleResult:
    """Concatenate two results along the rows."""

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
    """Join what is known about the labels of both roles, in the row order of `both_roles`.

    A posterior or a set of contradicted rows that one role lacks is left out.
    """

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
