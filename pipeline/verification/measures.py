"""On what the arms are measured: labels as given, uncontradicted rows, calibrated posteriors, people's answers.

When each is right about the gain in accuracy, E[right(arm) − right(other)] on true labels:

(a) `given`, labels as given. Where a label is wrong with probability ε whatever the features and the class are, and the
    wrong ones are spread evenly over K classes, the gain shrinks by 1 − ε·K/(K − 1) and keeps its sign. Where the noise
    follows a column that the model sees, or one class only, a model that has learned the noise is rewarded for it, and
    the sign can turn round.
(b) `uncontradicted`, rows whose label no out-of-sample judge contradicts. Hardly any label is wrong there, but the rows
    are selected by agreement with the judges: an arm that moves towards the judges is right more often there than
    elsewhere, so that this alone never proves.
(c) `posterior`, the expected score and loss under P(label k is right | features, given label). Unbiased where the
    posterior is calibrated given the row and what the two arms predict there, which asks for judges that do not know
    what the arms were told: those that see neither the group nor a column that names it (`…_blind`).
(d) `answered`, rows that a person has answered for. Right, but on the rows that were asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.text.decisions import Decider, Decision
from pipeline.training.main_run import role_labels
from pipeline.verification.answers import UNKNOWN, read_holdout_answers, with_answers
from pipeline.verification.results import RoleResult
from pipeline.workers.worker import run_config, run_data

GIVEN, UNCONTRADICTED, POSTERIOR, ANSWERED = "given", "uncontradicted", "posterior", "answered"
BLIND = "_blind"
FEWEST_ROWS = 30
"""Fewer uncontradicted or answered rows measure nothing."""


@dataclass(frozen=True)
class Evidence:
    """What is known about the labels of a role, beside the labels as given; None where it is not there.

    clean: the labels are declared right; given: encoded labels `[rows]`; posterior: float32 `[rows, classes]`;
    contradicted: bool `[rows]`; answered: bool `[rows]` and `answers`, encoded labels `[rows]` of people.
    """

    clean: bool
    given: np.ndarray
    posterior: dict[str, np.ndarray]
    contradicted: dict[str, np.ndarray]
    answered: np.ndarray | None = None
    answers: np.ndarray | None = None

    @property
    def wrong_share(self) -> float | None:
        """The expected share of wrong labels, from the posterior."""
        found = self.posterior.get(POSTERIOR)
        return None if found is None else float(1 - found[np.arange(len(found)), self.given].mean())

    @property
    def contradicted_share(self) -> float | None:
        found = self.contradicted.get(UNCONTRADICTED)
        return None if found is None else float(found.mean())


@dataclass(frozen=True)
class Measured:
    """One arm on one measure: float64 `[seeds, rows]`, whose rows are the same for all arms."""

    scores: np.ndarray
    losses: np.ndarray


def read_evidence(run_path: Path, role: str) -> Evidence:
    """Read what detection wrote about a role; a file that is missing or of another length is left out."""
    given = role_labels(run_data(run_path), role).numpy()
    posterior, contradicted = {}, {}
    for ending, suffix in (("", ""), (BLIND, "-blind")):
        found = read_array(run_path / "detection" / f"posterior-{role}{suffix}.npy", len(given))
        if found is not None:
            posterior[POSTERIOR + ending] = found
        found = read_array(run_path / "detection" / f"contradicted-{role}{suffix}.npy", len(given))
        if found is not None:
            contradicted[UNCONTRADICTED + ending] = found.astype(bool)
    answered, answers = read_answers(run_path, role, given)
    asked = read_holdout_answers(run_path, given) if role == "holdout" else None
    if asked is not None:
        posterior = {name: with_answers(found, given, asked) for name, found in posterior.items()}
        named = asked.labels != UNKNOWN
        answers = np.where(named, asked.labels, given if answers is None else answers)
        answered = named if answered is None else answered | named
    clean = run_config(run_path).data.labels_are_clean(role)
    return Evidence(clean, given, posterior, contradicted, answered, answers)


def read_array(path: Path, rows: int) -> np.ndarray | None:
    found = np.load(path, mmap_mode="r") if path.exists() else None
    return found if found is not None and len(found) == rows else None


def read_answers(run_path: Path, role: str, given: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """People's answers for the rows of a role; a row that is wrong without another label has no answer."""
    path = run_path / "rows.parquet"
    names = pq.read_schema(path).names if path.exists() else []
    if not {"split", "decided_by", "decision"} <= set(names):
        return None, None
    wanted = [name for name in ("decision", "decided_by", "new_label") if name in names]
    table = pq.read_table(path, columns=wanted, filters=pc.field("split") == role)
    if table.num_rows != len(given):
        return None, None
    person = filled(pc.equal(table["decided_by"], Decider.PERSON.word))
    answered, answers = person & filled(pc.equal(table["decision"], Decision.KEEP.word)), given.copy()
    if "new_label" in names:
        changed = person & filled(pc.equal(table["decision"], Decision.RELABEL.word))
        changed &= table["new_label"].is_valid().to_numpy()
        labels = table["new_label"].filter(pa.array(changed))
        if len(labels):
            answers[changed] = run_data(run_path).encoding.label.encode(labels.combine_chunks())
        answered |= changed
    return (answered, answers) if answered.any() else (None, None)


def filled(values: pa.ChunkedArray) -> np.ndarray:
    """bool `[rows]`; null is False."""
    return pc.fill_null(values, False).to_numpy()


def measure_arm(
    result: RoleResult, evidence: Evidence, rows: np.ndarray | None = None
) -> dict[str, Measured]:
    """Every measure that the evidence allows; `rows`: bool, those that count (None: all)."""
    every = np.ones(len(evidence.given), dtype=bool) if rows is None else rows
    found = {GIVEN: Measured(result.scores[:, every], result.losses[:, every])}
    for name, contradicted in evidence.contradicted.items():
        mine = every & ~contradicted
        if mine.sum() >= FEWEST_ROWS:
            found[name] = Measured(result.scores[:, mine], result.losses[:, mine])
    if result.log_probabilities is not None:
        for name, posterior in evidence.posterior.items():
            found[name] = expected(result, posterior, every)
    if evidence.answered is not None and (every & evidence.answered).sum() >= FEWEST_ROWS:
        mine = every & evidence.answered
        found[ANSWERED] = under_answers(result, evidence, mine)
    return found


def expected(result: RoleResult, posterior: np.ndarray, rows: np.ndarray) -> Measured:
    """Expected accuracy, the posterior of the class predicted, and expected loss, −Σ_k P(k) log q_k."""
    assert result.log_probabilities is not None
    assert result.top is not None
    weights = np.asarray(posterior[rows], dtype=np.float64)
    place = np.arange(len(weights))
    scores = np.stack([weights[place, top[rows]] for top in result.top])
    losses = np.stack([-(weights * logs[rows]).sum(1) for logs in result.log_probabilities])
    return Measured(scores, losses)


def under_answers(result: RoleResult, evidence: Evidence, rows: np.ndarray) -> Measured:
    """Score and loss on people's labels; of other tasks than classification, as given (rows that were called right)."""
    if result.log_probabilities is None or result.top is None or evidence.answers is None:
        return Measured(result.scores[:, rows], result.losses[:, rows])
    answers, place = evidence.answers[rows], np.arange(int(rows.sum()))
    scores = np.stack([(top[rows] == answers).astype(float) for top in result.top])
    losses = np.stack([-logs[rows][place, answers].astype(float) for logs in result.log_probabilities])
    return Measured(scores, losses)
