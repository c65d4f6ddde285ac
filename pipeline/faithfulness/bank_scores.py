"""The front door of `winnow lds --bank`: somebody's scores beside the retrainings of a truth bank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.faithfulness.bank import Bank, Question, read_bank
from pipeline.faithfulness.row_hashes import numbers_of, read_npy, read_parquet, read_rows
from pipeline.text import words
from pipeline.verification.lds import Estimate, lds_score, predicted_change

SENSE = "A score is higher the more the row helps the query: without the row, its loss would be higher."


def score_bank(bank: Bank, scores: np.ndarray) -> dict[str, Estimate]:
    """The linear datamodeling score of attributions on a bank's retrainings.

    Args:
        bank: from `read_bank`.
        scores: float `[rows, queries]` in the bank's order; `[rows]` or `[rows, 1]` is about the mean over queries. A
            score is higher the more the row helps the query: without the row, the query's loss would be higher.

    Returns:
        Question -> LDS, of the questions with so many queries.

    Raises:
        InputError: the shape is not that of a question, or a score is not finite.
    """
    scores = _checked(bank, np.asarray(scores))
    return {
        name: _lds(question, scores, bank.removed)
        for name, question in bank.questions.items()
        if question.truth.shape[2] == scores.shape[1]
    }


def lds_of_bank(
    path: str | Path, scores: str | Path | None = None, rows: str | Path | None = None
) -> dict[str, Any]:
    """What a bank says, and how well scores do on it.

    Args:
        path: of the bank.
        scores: a file of scores, `.npy` or Parquet with a column for each query, as `score_bank` takes them.
        rows: a file of training rows, `.npy` or Parquet, that are compared with those of the bank.

    Returns:
        What `winnow lds --bank FILE --json` prints.

    Raises:
        InputError: a file is missing or damaged, or does not fit the bank.
    """
    bank = read_bank(path)
    if rows is not None:
        bank.check_rows(read_rows(Path(rows), bank.columns))
    found = {} if scores is None else score_bank(bank, read_scores(Path(scores)))
    masks, retrainings, _ = next(iter(bank.questions.values())).truth.shape
    return {
        "bank": str(path),
        "task": bank.task,
        "dataset": bank.dataset,
        "recipe": bank.recipe,
        "code": bank.code,
        "made": dict(bank.made),
        "rows": len(bank.row_places),
        "queries": len(bank.query_places),
        "masks": masks,
        "retrainings": retrainings,
        "removed": round(float(bank.removed.mean()), 4),
        "rows_checked": rows is not None,
        "questions": {
            name: {
                "words": question.words,
                "lds": found[name].as_json() if name in found else None,
                "ceiling": None if question.ceiling is None else question.ceiling.as_json(),
                "published": {method: figure.as_json() for method, figure in question.published.items()},
            }
            for name, question in bank.questions.items()
        },
    }


def read_scores(path: Path) -> np.ndarray:
    """Scores `[rows, queries]` of a `.npy` file, or of a Parquet file with a column for each query.

    Raises:
        InputError: the file is missing, damaged or not of numbers.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "Give the scores as .npy or as Parquet.")
    return read_npy(path) if path.suffix == ".npy" else numbers_of(path, read_parquet(path))


def _checked(bank: Bank, scores: np.ndarray) -> np.ndarray:
    """Scores as float64 `[rows, queries]`.

    Raises:
        InputError: as `score_bank`.
    """
    scores = scores[:, None] if scores.ndim == 1 else scores
    rows = len(bank.row_places)
    counts = sorted({question.truth.shape[2] for question in bank.questions.values()}, reverse=True)
    shapes = " or ".join(f"({rows}, {count})" for count in counts)
    wanted = f"The bank has {words.rows(rows)} and {words.count(counts[0])} queries: give {shapes}."
    if scores.ndim == 2 and scores.shape[::-1] in [(rows, count) for count in counts]:
        raise InputError(
            f"the scores have the shape {scores.shape}, queries by rows",
            "Give their transpose, rows by queries.",
        )
    if scores.ndim != 2 or len(scores) != rows or scores.shape[1] not in counts:
        raise InputError(f"the scores have the shape {scores.shape}", wanted)
    if scores.dtype.kind not in "fiub":
        raise InputError(f"the scores are {scores.dtype}, not numbers", "Give float32 or float64.")
    wrong = np.argwhere(~np.isfinite(scores))
    if len(wrong):
        row, query = wrong[0]
        raise InputError(
            f"the score of row {row} and query {query} is {scores[row, query]}, and "
            f"{words.count(len(wrong))} scores are not finite",
            "Give a finite number for every row and query.",
        )
    return scores.astype(np.float64)


def _lds(question: Question, scores: np.ndarray, removed: np.ndarray) -> Estimate:
    sign = -1.0 if question.rises_with_help else 1.0
    return lds_score(question.truth.mean(1), predicted_change(sign * scores.T, removed))
