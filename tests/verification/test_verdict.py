from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.verification.choice import choose
from pipeline.verification.cross_fitting import both_evidences, can_cross_fit
from pipeline.verification.judgement import Retrained, judge
from pipeline.verification.verdict import NO_EVIDENCE, finding, verdict

from .simulated import arm_result, evidence, role_result

BETTER, WORSE, UNSURE = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.2)
Bounds = tuple[float, float]


def differences(
    metric: tuple[Bounds, Bounds], loss: tuple[Bounds, Bounds] = (UNSURE, UNSURE)
) -> dict[str, Any]:
    """Of the metric and the loss, each against as given and the control; positive is better in both."""

    def interval(bounds: Bounds, higher: bool) -> dict[str, Any]:
        low, high = sorted(bound if higher else -bound for bound in bounds)
        return {"mean": (low + high) / 2, "low": low, "high": high, "higher_is_better": higher}

    return {
        name: {"metric": interval(metric[place], True), "loss": interval(loss[place], False)}
        for place, name in enumerate(("cleaned - as_given", "cleaned - random_removal"))
    }


@pytest.mark.parametrize(
    ("metric", "loss", "expected"),
    [
        ((BETTER, BETTER), (UNSURE, UNSURE), "improved"),
        ((UNSURE, UNSURE), (BETTER, BETTER), "improved"),
        ((BETTER, BETTER), (WORSE, BETTER), "improved"),  # as few random rows harm the loss more
        ((BETTER, BETTER), (WORSE, WORSE), "no evidence"),
        ((BETTER, UNSURE), (UNSURE, BETTER), "no evidence"),  # one quantity has to beat both
        ((BETTER, WORSE), (UNSURE, UNSURE), "no evidence"),
        ((WORSE, BETTER), (UNSURE, UNSURE), "worse"),
        ((UNSURE, UNSURE), (WORSE, UNSURE), "worse"),
        ((WORSE, WORSE), (BETTER, UNSURE), "no evidence"),
        ((UNSURE, WORSE), (UNSURE, WORSE), "no evidence"),
        (((0.0, 0.2), BETTER), (UNSURE, UNSURE), "no evidence"),
        (((-0.2, 0.0), UNSURE), (UNSURE, UNSURE), "no evidence"),
    ],
)
def test_metric_and_loss_count_both(metric: Any, loss: Any, expected: str) -> None:
    assert finding(differences(metric, loss)) == expected


GOOD, BAD, NOTHING = (differences((b, b)) for b in (BETTER, WORSE, UNSURE))


@pytest.mark.parametrize(
    ("measures", "word", "decided_by"),
    [
        ({"given": BAD, "posterior": GOOD, "uncontradicted": NOTHING}, "improved", "posterior"),
        ({"given": GOOD, "posterior": BAD, "uncontradicted": NOTHING}, "worse", "posterior"),
        ({"given": GOOD, "posterior": GOOD, "uncontradicted": BAD}, "no evidence", "posterior"),
        ({"given": GOOD, "posterior": GOOD, "answered": BAD}, "no evidence", "posterior"),
        ({"given": GOOD, "posterior": NOTHING, "uncontradicted": GOOD}, "no evidence", "posterior"),
        ({"given": GOOD, "posterior": GOOD, "posterior_blind": GOOD}, "improved", "posterior_blind"),
        ({"given": GOOD, "posterior": GOOD, "posterior_blind": NOTHING}, "no evidence", "posterior_blind"),
        ({"given": GOOD, "posterior": BAD, "posterior_blind": GOOD}, "no evidence", "posterior_blind"),
        ({"given": GOOD, "posterior": NOTHING, "posterior_blind": GOOD}, "no evidence", "posterior_blind"),
        ({"given": GOOD}, "no evidence", "given"),
        ({"given": BAD}, "no evidence", "given"),
        ({"given": GOOD, "uncontradicted": GOOD}, "improved", "uncontradicted"),
        ({"given": BAD, "uncontradicted": BAD}, "worse", "uncontradicted"),
        ({"given": NOTHING, "uncontradicted": GOOD}, "no evidence", "uncontradicted"),
        ({"given": NOTHING, "uncontradicted": NOTHING}, "no evidence", "uncontradicted"),
        ({"given": GOOD, "uncontradicted": GOOD, "answered": BAD}, "no evidence", "uncontradicted"),
    ],
)
def test_what_noisy_holdout_labels_allow_to_say(measures: Any, word: str, decided_by: str) -> None:
    found = verdict(measures, clean=False)
    assert (found.word, found.decided_by) == (word, decided_by)


def test_where_measures_disagree_the_reason_is_said() -> None:
    found = verdict({"given": GOOD, "posterior": GOOD, "uncontradicted": BAD}, clean=False)
    assert "rows that no judge contradicts worse" in found.reason
    opposed = verdict({"given": differences((BETTER, BETTER), (WORSE, WORSE))}, clean=True)
    assert opposed.reason == "The metric and the loss point to opposite sides."


def test_clean_labels_decide_alone() -> None:
    found = verdict({"given": GOOD, "posterior": BAD, "uncontradicted": BAD}, clean=True)
    assert (found.word, found.decided_by) == ("improved", "given")


def test_worse_says_whether_the_arm_is_below_its_control_too() -> None:
    assert verdict({"given": BAD}, clean=True).worse_than_random is True
    assert verdict({"given": differences((WORSE, UNSURE))}, clean=True).worse_than_random is False
    assert verdict({"given": GOOD}, clean=True).worse_than_random is None


def draw(random: np.random.RandomState, rows: int, seeds: int, easy: np.ndarray, noise: float) -> np.ndarray:
    """bool `[seeds, rows]`: right where an easiness of the row, of the seed and of both together exceeds 0."""
    logit = easy + noise * random.standard_normal((seeds, 1)) + noise * random.standard_normal((seeds, rows))
    return logit > 0


@pytest.mark.parametrize(("seeds", "rows", "noise"), [(2, 150, 0.5), (3, 80, 0.3), (5, 300, 0.3)])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("with_validation", [True, False])
def test_arms_of_equal_worth_are_seldom_called_improved_or_worse_with_the_whole_choice(
    seeds: int, rows: int, noise: float, clean: bool, with_validation: bool
) -> None:
    random, experiments, found = np.random.RandomState(seeds), 100, []
    for _ in range(experiments):
        data = {}
        for role in ("validation", "holdout"):
            truth, wrong = random.randint(0, 2, rows), random.random_sample(rows) < (0 if clean else 0.1)
            given = np.where(wrong, 1 - truth, truth)
            posterior = np.where(np.arange(2) == given[:, None], 0.9, 0.1)
            data[role] = evidence(given, None if clean else posterior, ~wrong & wrong, clean), truth
        easy = {role: random.normal(1.5, 2, rows) for role in data}
        results = {}
        for arm in ("as_given", "removed", "relabelled", "mixed", "control"):
            roles = {}
            shared = noise * random.standard_normal((seeds, 1))  # the luck of a retraining, on both roles
            for role, (known, truth) in data.items():
                right = draw(random, rows, seeds, easy[role] + shared, noise)
                roles[role] = role_result(right, truth, known.given)
            results[arm] = arm_result(roles["holdout"], roles["validation"] if with_validation else None)
        control = results.pop("control")
        choice = choose(
            results,
            data["validation"][0] if with_validation else None,
            data["holdout"][0],
            random.randint(10**6),
        )
        measured = {choice.arm, *(choice.crossed or {}).values()}
        retrained = Retrained(results | {f"random_of_{arm}": control for arm in measured}, choice)
        known = data["holdout"][0]
        if choice.crossed is not None:
            known = both_evidences(data["validation"][0], known)
        found.append(judge(retrained, known)["verdict"])
    bound = 0.05 + 2 * np.sqrt(0.05 * 0.95 / experiments)
    assert found.count("improved") / experiments <= 0.05
    assert found.count("worse") / experiments <= bound
    assert set(found) <= {"improved", "worse", NO_EVIDENCE}


def test_a_clear_gain_of_two_seeds_is_seen() -> None:
    random, rows = np.random.RandomState(0), 1000
    truth = random.randint(0, 2, rows)
    easy = random.normal(1.5, 1.5, rows)
    known = evidence(truth, clean=True)
    shifts = {"as_given": 0.0, "removed": 0.9, "relabelled": 0.8, "random_of_removed": -0.1}
    arms = {
        name: arm_result(role_result(draw(random, rows, 2, easy + shift, 0.1), truth, truth))
        for name, shift in shifts.items()
    }
    choice = choose({name: arms[name] for name in list(shifts)[:3]}, None, known, 0)
    arms[f"random_of_{choice.arm}"] = arms["random_of_removed"]
    named = {name: arms[name] for name in ("as_given", "removed", "relabelled", f"random_of_{choice.arm}")}
    found = judge(Retrained(named, choice), known)
    assert found["verdict"] == "improved"
    assert found["exported"] == choice.arm


def test_the_arm_is_chosen_on_the_validation_rows_and_proved_on_all_holdout_rows() -> None:
    random, rows = np.random.RandomState(1), 400
    truth = random.randint(0, 2, rows)
    known = evidence(truth, clean=True)
    accuracies = {"as_given": (0.7, 0.7), "removed": (0.9, 0.6), "relabelled": (0.7, 0.9)}
    results = {}
    for name, (on_validation, on_holdout) in accuracies.items():
        roles = [
            role_result(random.random_sample((3, rows)) < share, truth, truth)
            for share in (on_holdout, on_validation)
        ]
        results[name] = arm_result(*roles)
    choice = choose(results, known, known, 0)
    assert (choice.arm, choice.role, choice.proving) == ("removed", "validation", None)
    without = choose(results, None, known, 0)
    assert (without.arm, without.role) == ("relabelled", "holdout")
    assert without.proving is not None
    assert without.proving.sum() == 200


def test_of_noisy_validation_labels_the_posterior_chooses() -> None:
    random, rows = np.random.RandomState(2), 2000
    truth = random.randint(0, 2, rows)
    wrong = random.random_sample(rows) < 0.3
    given = np.where(wrong, 1 - truth, truth)
    known = evidence(given, np.where(np.arange(2) == truth[:, None], 0.95, 0.05))
    right = {"as_given": np.ones(rows) < 0, "removed": ~wrong, "relabelled": np.ones(rows) > 0}
    results = {
        name: arm_result(*[role_result(np.stack([r, r]), truth, given)] * 2) for name, r in right.items()
    }
    choice = choose(results, known, known, 0)
    assert (choice.arm, choice.measure) == ("relabelled", "posterior")


def test_of_noisy_labels_each_role_measures_the_arm_that_the_other_one_chose() -> None:
    random, rows = np.random.RandomState(3), 400
    truth = random.randint(0, 2, rows)
    known = evidence(truth, np.where(np.arange(2) == truth[:, None], 0.95, 0.05))
    # On which share of the rows of validation and of holdout an arm is right.
    accuracies = {"as_given": (0.7, 0.7), "removed": (0.95, 0.6), "relabelled": (0.65, 0.8)}
    results = {}
    for name, (on_validation, on_holdout) in accuracies.items():
        right = [np.arange(rows) < share * rows for share in (on_holdout, on_validation)]
        results[name] = arm_result(*[role_result(np.stack([each] * 3), truth, truth) for each in right])
    choice = choose(results, known, known, 0)
    assert choice.crossed == {"validation": "relabelled", "holdout": "removed"}
    assert choice.arm == "removed"  # .775 against .725 on all rows
    controls = {f"random_of_{arm}": results["as_given"] for arm in ("removed", "relabelled")}
    found = judge(Retrained(results | controls, choice), both_evidences(known, known))
    assert found["holdout"]["roles"] == ["validation", "holdout"]
    assert found["holdout"]["rows"] == 2 * rows
    # Each lost where it is measured: (.65 + .6) / 2 is less than .7, although each gained where it was chosen.
    assert found["arms"]["cleaned"]["measures"]["given"]["metric"] == pytest.approx([0.625] * 3)
    assert found["verdict"] == "worse"
    assert found["arms"]["removed"]["measures"]["given"]["metric"] == pytest.approx([0.775] * 3)


def test_trusted_labels_of_one_role_are_not_crossed_with_noisy_ones() -> None:
    truth = np.arange(40) % 2
    clean, noisy = evidence(truth, clean=True), evidence(truth)
    assert not can_cross_fit(clean, noisy)
    assert not can_cross_fit(noisy, clean)
    assert not can_cross_fit(None, noisy)
    assert can_cross_fit(noisy, noisy)
    judged = evidence(truth, np.full((40, 2), 0.5))
    assert not can_cross_fit(noisy, judged)
    assert can_cross_fit(judged, judged)
