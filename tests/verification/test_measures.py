from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.training.main_run import role_labels
from pipeline.verification.measures import Measured, measure_arm, read_evidence
from pipeline.workers.worker import run_data

from .simulated import evidence, role_result
from .small_run import digits_config, open_context

ROWS = 100_000


def gain(arm: Measured, other: Measured) -> float:
    return float(arm.scores.mean() - other.scores.mean())


def noisy(truth: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels that are wrong with probability `wrong` `[rows]`, and the posterior of someone who knows only that."""
    given = np.where(np.random.RandomState(5).random_sample(len(truth)) < wrong, 1 - truth, truth)
    posterior = np.where(np.arange(2) == given[:, None], 1 - wrong[:, None], wrong[:, None])
    return given, posterior


def test_noise_that_follows_nothing_only_shrinks_the_gain_on_labels_as_given() -> None:
    random = np.random.RandomState(0)
    truth = random.randint(0, 2, ROWS)
    given, posterior = noisy(truth, np.full(ROWS, 0.2))
    right = random.random_sample((2, 1, ROWS)) < np.array([0.85, 0.80])[:, None, None]
    arms = [measure_arm(role_result(r, truth, given), evidence(given, posterior)) for r in right]
    true = right[0].mean() - right[1].mean()
    assert gain(arms[0]["given"], arms[1]["given"]) == pytest.approx((1 - 0.2 * 2) * true, abs=0.005)


def vendor_file() -> tuple[dict[str, list[Measured]], float]:
    """One of five vendors has 40 % of its rows of class 0 wrong; the dirty arm has learned that, the clean has not."""
    random = np.random.RandomState(1)
    truth, bad = random.randint(0, 2, ROWS), random.random_sample(ROWS) < 0.2
    prone = bad & (truth == 0)
    wrong = np.where(prone, 0.4, 0.0)
    given = np.where(random.random_sample(ROWS) < wrong, 1 - truth, truth)
    # What the label says, given the vendor: a 1 of the bad vendor is a true 0 in .4/1.4 of the cases.
    doubt = np.where(bad & (given == 1), 0.4 / 1.4, 0.0)
    posterior = np.where(np.arange(2) == given[:, None], 1 - doubt[:, None], doubt[:, None])
    cleaned = random.random_sample((1, ROWS)) < 0.80
    as_given = random.random_sample((1, ROWS)) < 0.80
    # A model that has learned the vendor answers 1 there far more often: right on true 1s, wrong on true 0s.
    says_one = random.random_sample((1, ROWS)) < np.where(truth == 1, 0.99, 0.50)
    as_given = np.where(bad, says_one == (truth == 1), as_given)
    known = evidence(given, posterior, contradicted=(given != truth))
    measured = [measure_arm(role_result(r, truth, given), known) for r in (cleaned, as_given)]
    true = float(cleaned.mean() - as_given.mean())
    return {name: [each[name] for each in measured] for name in measured[0]}, true


def test_a_calibrated_posterior_gives_the_true_gain_where_the_noise_follows_a_vendor() -> None:
    """The truth is drawn from the posterior; one arm corrects what is doubtful, the other repeats the labels."""
    random = np.random.RandomState(2)
    doubt = random.choice([0.0, 0.1, 0.6], ROWS)
    given = random.randint(0, 2, ROWS)
    truth = np.where(random.random_sample(ROWS) < doubt, 1 - given, given)
    posterior = np.where(np.arange(2) == given[:, None], 1 - doubt[:, None], doubt[:, None])
    top = [np.where(doubt == 0.6, 1 - given, given), given]
    known = evidence(given, posterior)
    measured = [measure_arm(role_result((t == truth)[None], truth, given), known) for t in top]
    true = float((top[0] == truth).mean() - (top[1] == truth).mean())
    assert gain(*(each["posterior"] for each in measured)) == pytest.approx(true, abs=0.003)
    assert true > 0.05
    assert gain(*(each["given"] for each in measured)) < -0.3


def test_labels_as_given_can_turn_the_sign_round_where_the_noise_follows_a_vendor() -> None:
    measures, true = vendor_file()
    assert true > 0.005
    assert gain(*measures["given"]) < 0
    assert gain(*measures["uncontradicted"]) > gain(*measures["given"])


def test_uncontradicted_rows_favour_an_arm_that_agrees_with_the_judges() -> None:
    """Two arms of equal worth; one errs where the judge errs, and those rows are not among the uncontradicted."""
    random = np.random.RandomState(3)
    truth, judge_right = random.randint(0, 2, ROWS), random.random_sample(ROWS) < 0.8
    copies = judge_right
    independent = random.random_sample(ROWS) < 0.8
    known = evidence(truth, contradicted=~judge_right)
    measured = [measure_arm(role_result(r[None], truth, truth), known) for r in (copies, independent)]
    assert gain(*(each["given"] for each in measured)) == pytest.approx(0, abs=0.005)
    assert gain(*(each["uncontradicted"] for each in measured)) == pytest.approx(0.2, abs=0.01)


def test_expected_loss_is_the_cross_entropy_with_the_posterior() -> None:
    random = np.random.RandomState(4)
    truth = random.randint(0, 2, 50)
    result = role_result(random.random_sample((3, 50)) < 0.7, truth, truth)
    posterior = random.dirichlet([1, 1], 50)
    found = measure_arm(result, evidence(truth, posterior))["posterior"]
    assert result.log_probabilities is not None
    expected = np.einsum("rk,srk->sr", -posterior, result.log_probabilities.astype(float))
    assert found.losses == pytest.approx(expected, abs=1e-5)
    certain = measure_arm(result, evidence(truth, np.eye(2)[truth]))["posterior"]
    assert certain.scores.tolist() == result.scores.tolist()
    assert certain.losses == pytest.approx(result.losses, abs=2e-3)


def test_peoples_answers_count_and_wrong_rows_without_another_label_do_not(tmp_path: Path) -> None:
    open_context(tmp_path, digits_config())
    given = role_labels(run_data(tmp_path), "holdout").numpy()
    n = len(given)
    decision = ["keep"] * 40 + ["relabel"] * 10 + ["remove"] * 5 + ["keep"] * (n - 55)
    by = ["person"] * 55 + [None] * (n - 55)
    new = [None] * 40 + [7] * 10 + [None] * (n - 50)
    columns = {
        "split": ["train"] * 3 + ["holdout"] * n,
        "decision": ["keep"] * 3 + decision,
        "decided_by": pa.array([None] * 3 + by, pa.string()),
        "new_label": pa.array([None] * 3 + new, pa.int64()),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    found = read_evidence(tmp_path, "holdout")
    assert found.answered is not None
    assert found.answers is not None
    assert np.flatnonzero(found.answered).tolist() == list(range(50))
    assert set(found.answers[40:50].tolist()) == {7}
    assert np.array_equal(found.answers[:40], given[:40])


def test_files_that_are_not_there_or_of_another_length_are_left_out(tmp_path: Path) -> None:
    open_context(tmp_path, digits_config())
    (tmp_path / "detection").mkdir(exist_ok=True)
    np.save(tmp_path / "detection/posterior-holdout.npy", np.ones((3, 10), dtype=np.float32))
    found = read_evidence(tmp_path, "holdout")
    assert found.posterior == {}
    assert found.contradicted == {}
    assert found.wrong_share is None
