"""The measures of the arms: labels as given, uncontradicted rows, calibrated posteriors, people's answers.

Each measure estimates the gain in accuracy on true labels, E[right(arm) − right(other)], under its own conditions:

(a) `given`: labels as given. If every label is wrong with the same probability ε, independent of features and class,
    and wrong labels are spread evenly over the other classes of K, the gain shrinks by the factor 1 − ε·K/(K − 1) and
    keeps its sign. If the noise depends on a column that the model sees, or on the class, a model that has learned the
    noise scores higher, and the sign of the gain can flip.
(b) `uncontradicted`: rows whose label no out-of-sample judge contradicts. Hardly any of these labels is wrong. But the
    rows are selected by agreement with the judges, and an arm that moves towards the judges is right more often on
    them. So this measure alone proves nothing.
(c) `posterior`: the expected score and loss under P(label k is right | features, given label). It is unbiased if the
    posterior is calibrated given the row and the predictions of both arms. This requires judges that do not know what
    the arms were told, which are judges that see neither the group nor a column that names it (`…_blind`).
(d) `answered`: rows that a person has answered for. It is right, but only for the rows that people were asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.text.decisions import BY_PEOPLE, Decision
from pipeline.training.main_run import role_labels
from pipeline.verification.answers import UNKNOWN, read_holdout_answers, with_answers
from pipeline.verification.results import RoleResult
from pipeline.workers.worker import run_config, run_data

GIVEN, UNCONTRADICTED, POSTERIOR, ANSWERED = "given", "uncontradicted", "posterior", "answered"
BLIND = "_blind"
FEWEST_ROWS = 30
"""With fewer uncontradicted or answered rows, the measure is left out."""


@dataclass(frozen=True)
class Evidence:
    """What is known about the labels of a role.

    Attributes:
        clean: whether the labels are declared right.
        given: the given labels, encoded, `[rows]`.
        posterior: measure → float32 `[rows, classes]`, with judges that see all columns or with blind ones.
        contradicted: measure → bool `[rows]`, rows whose label a judge contradicts.
        answered: bool `[rows]`, rows that people answered for; None without answers.
        answers: the labels that people named, encoded, `[rows]`; None without answers.
    """

    clean: bool
    given: np.ndarray
    posterior: dict[str, np.ndarray]
    contradicted: dict[str, np.ndarray]
    answered: np.ndarray | None = None
    answers: np.ndarray | None = None

    @property
    def wrong_share(self) -> float | None:
        """The expected share of wrong labels by the posterior; None without a posterior."""
        found = self.posterior.get(POSTERIOR)
        return None if found is None else float(1 - found[np.arange(len(found)), self.given].mean())

    @property
    def contradicted_share(self) -> float | None:
        found = self.contradicted.get(UNCONTRADICTED)
        return None if found is None else float(found.mean())


@dataclass(frozen=True)
class Measured:
    """The results of one arm on one measure; all arms have the same rows.

    Attributes:
        scores: float64 `[seeds, rows]`.
        losses: float64 `[seeds, rows]`.
    """

    scores: np.ndarray
    losses: np.ndarray


def read_evidence(run_path: Path, role: str) -> Evidence:
    """Read what detection and people know about the labels of a role.

    Files that are missing or have another number of rows are left out.
    """
    given = role_labels(run_data(run_path), role).numpy()
    posterior, contradicted = {}, {}
    for ending, suffix in (("", ""), (BLIND, "-blind")):
        found = _read_array(run_path / "detection" / f"posterior-{role}{suffix}.npy", len(given))
        if found is not None:
            posterior[POSTERIOR + ending] = found
        found = _read_array(run_path / "detection" / f"contradicted-{role}{suffix}.npy", len(given))
        if found is not None:
            contradicted[UNCONTRADICTED + ending] = found.astype(bool)
    answered, answers = _read_answers(run_path, role, given)
    asked = read_holdout_answers(run_path, given) if role == "holdout" else None
    if asked is not None:
        posterior = {name: with_answers(found, given, asked) for name, found in posterior.items()}
        named = asked.labels != UNKNOWN
        answers = np.where(named, asked.labels, given if answers is None else answers)
        answered = named if answered is None else answered | named
    clean = run_config(run_path).data.labels_are_clean(role)
    return Evidence(clean, given, posterior, contradicted, answered, answers)


def _read_array(path: Path, rows: int) -> np.ndarray | None:
    found = np.load(path, mmap_mode="r") if path.exists() else None
    return found if found is not None and len(found) == rows else None


def _read_answers(
    run_path: Path, role: str, given: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read people's answers about the rows of a role from rows.parquet.

    A row that a person called wrong without naming another label counts as unanswered.

    Returns:
        bool `[rows]`, which rows are answered; and encoded labels `[rows]`, the given label where none was named. None
        and None without answers.
    """
    path = run_path / "rows.parquet"
    names = pq.read_schema(path).names if path.exists() else []
    if not {"split", "decided_by", "decision"} <= set(names):
        return None, None
    wanted = [name for name in ("decision", "decided_by", "new_label") if name in names]
    table = pq.read_table(path, columns=wanted, filters=pc.field("split") == role)
    if table.num_rows != len(given):
        return None, None
    person = _filled(pc.is_in(table["decided_by"], pa.array(BY_PEOPLE)))
    answered, answers = person & _filled(pc.equal(table["decision"], Decision.KEEP.word)), given.copy()
    if "new_label" in names:
        changed = person & _filled(pc.equal(table["decision"], Decision.RELABEL.word))
        changed &= table["new_label"].is_valid().to_numpy()
        labels = table["new_label"].filter(pa.array(changed))
        if len(labels):
            answers[changed] = run_data(run_path).encoding.label.encode(labels.combine_chunks())
        answered |= changed
    return (answered, answers) if answered.any() else (None, None)


def _filled(values: pa.ChunkedArray) -> np.ndarray:
    """A boolean column as an array, bool `[rows]`; null becomes False."""
    return pc.fill_null(values, False).to_numpy()


def measure_arm(
    result: RoleResult, evidence: Evidence, rows: np.ndarray | None = None
) -> dict[str, Measured]:
    """Measure an arm in all ways that the evidence allows.

    Args:
        result: of the arm.
        evidence: what is known about the labels of the same rows.
        rows: bool `[rows]`, rows that count; None counts all.

    Returns:
        Measure → results of the arm.
    """
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
        found[ANSWERED] = _under_answers(result, evidence, mine)
    return found


def expected(result: RoleResult, posterior: np.ndarray, rows: np.ndarray) -> Measured:
    """Expected accuracy (the posterior of the predicted class) and expected loss, −Σ_k P(k) log q_k."""
    assert result.log_probabilities is not None
    assert result.top is not None
    weights = np.asarray(posterior[rows], dtype=np.float64)
    place = np.arange(len(weights))
    scores = np.stack([weights[place, top[rows]] for top in result.top])
    losses = np.stack([-(weights * logs[rows]).sum(1) for logs in result.log_probabilities])
    return Measured(scores, losses)


def _under_answers(result: RoleResult, evidence: Evidence, rows: np.ndarray) -> Measured:
    """Score and loss on the labels that people named.

    For tasks other than classification, score and loss on the given labels are used.
    """
    if result.log_probabilities is None or result.top is None or evidence.answers is None:
        return Measured(result.scores[:, rows], result.losses[:, rows])
    answers, place = evidence.answers[rows], np.arange(int(rows.sum()))
    scores = np.stack([(top[rows] == answers).astype(float) for top in result.top])
    losses = np.stack([-logs[rows][place, answers].astype(float) for logs in result.log_probabilities])
    return Measured(scores, losses)
