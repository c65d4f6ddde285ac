"""A truth bank: what retrainings measured, in one small file, so that attributions are scored without retraining.

The file is safetensors. Its header has `winnow_bank` (the form, 1), `about` (JSON: all fields of `Bank` that are no
arrays) and `digest` (SHA-256 of `about` and all arrays). Its tensors are `removed` (packed bits), `row_places`,
`row_hashes`, `row_labels`, `query_places`, `query_labels`, and `truth.NAME` for every question.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.errors import InputError
from pipeline.faithfulness.row_hashes import check_rows
from pipeline.runs.directory import write_atomically
from pipeline.verification.lds import Estimate

FORM = "1"
ARRAYS = ("row_places", "row_hashes", "row_labels", "query_places", "query_labels")
TRUTH = "truth."
NO_BANK = "Give a file that `python -m benchmarks.lds --write-banks` wrote; benchmarks/banks/ has some."
COPY_AGAIN = "Copy the bank again from where it came from."


@dataclass(frozen=True)
class Question:
    """What was measured on the queries after every retraining.

    Attributes:
        words: what was measured, and at which weights.
        rises_with_help: whether the measurement is higher with rows that help, as a margin is; a loss is lower.
        truth: float64 `[masks, retrainings, queries]`; a mean over queries is one query.
        ceiling: the highest LDS that attributions could reach, given the noise of the truth; None where each mask was
            retrained once.
        published: method -> its LDS when the bank was written.
    """

    words: str
    rises_with_help: bool
    truth: np.ndarray
    ceiling: Estimate | None
    published: Mapping[str, Estimate]


@dataclass(frozen=True)
class Bank:
    """Retrainings without random sets of training rows.

    Attributes:
        task: its name.
        dataset: which rows the places are places of, and where the dataset comes from.
        columns: what of a row is hashed, by the names that the dataset has for it.
        recipe: model and training, in words.
        code: hash of the code and the recipe that made the truth.
        made: commit, date and command of the writing.
        removed: the rows that each mask removed, bool `[masks, rows]`.
        row_places: places of the training rows in the dataset, int64 `[rows]`.
        row_hashes: hashes of their content, uint8 `[rows, 8]`, as `row_hashes` makes them.
        row_labels: the labels that training saw, float64 `[rows]` (tokens of a language model: all 0).
        query_places: places of the single queries, int64 `[queries]`.
        query_labels: float64 `[queries]`.
        questions: name -> what was measured.
    """

    task: str
    dataset: str
    columns: tuple[str, ...]
    recipe: str
    code: str
    made: Mapping[str, str]
    removed: np.ndarray
    row_places: np.ndarray
    row_hashes: np.ndarray
    row_labels: np.ndarray
    query_places: np.ndarray
    query_labels: np.ndarray
    questions: Mapping[str, Question]

    def check_rows(self, rows: np.ndarray | Sequence[str]) -> None:
        """Check that rows are the bank's training rows, in its order.

        Args:
            rows: numbers `[rows, …]` or texts, as the dataset has them: what `columns` names.

        Raises:
            InputError: a row differs, there are more or fewer, or their order is another.
        """
        check_rows(rows, self.row_hashes)


def write_bank(path: Path, bank: Bank) -> None:
    """Write a bank atomically; truths are kept as float32."""
    tensors = {name: getattr(bank, name) for name in ARRAYS}
    tensors |= {"removed": np.packbits(bank.removed, axis=1)}
    tensors |= {TRUTH + name: each.truth.astype(np.float32) for name, each in bank.questions.items()}
    about = json.dumps(_about(bank), allow_nan=False)
    tensors = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    header = {"winnow_bank": FORM, "about": about, "digest": _digest(about, tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        save_file(tensors, temporary, header)


def read_bank(path: str | Path) -> Bank:
    """Read a truth bank.

    Args:
        path: of a file that `write_bank` wrote.

    Raises:
        InputError: there is no such file, it is damaged, or it is no truth bank.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file", NO_BANK)
    try:
        with safe_open(path, "numpy") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
    except SafetensorError as error:
        raise InputError(f"{path}: not a truth bank, or damaged ({error})", NO_BANK) from None
    if "winnow_bank" not in header:
        raise InputError(f"{path}: a safetensors file, but no truth bank", NO_BANK)
    if header["winnow_bank"] != FORM:
        raise InputError(
            f"{path}: a truth bank of form {header['winnow_bank']}, and this version reads form {FORM}",
            "Use a version of Winnow that is as new as the bank.",
        )
    if header.get("digest") != _digest(header.get("about", ""), tensors):
        raise InputError(f"{path}: damaged, its content does not fit its checksum", COPY_AGAIN)
    return _bank(json.loads(header["about"]), tensors)


def _about(bank: Bank) -> dict[str, Any]:
    return {
        "task": bank.task,
        "dataset": bank.dataset,
        "columns": list(bank.columns),
        "recipe": bank.recipe,
        "code": bank.code,
        "made": dict(bank.made),
        "questions": {
            name: {
                "words": each.words,
                "rises_with_help": each.rises_with_help,
                "ceiling": None if each.ceiling is None else each.ceiling.as_json(),
                "published": {method: figure.as_json() for method, figure in each.published.items()},
            }
            for name, each in bank.questions.items()
        },
    }


def _bank(about: dict[str, Any], tensors: dict[str, np.ndarray]) -> Bank:
    questions = {
        name: Question(
            each["words"],
            each["rises_with_help"],
            tensors[TRUTH + name].astype(np.float64),
            None if each["ceiling"] is None else Estimate(**each["ceiling"]),
            {method: Estimate(**figure) for method, figure in each["published"].items()},
        )
        for name, each in about.pop("questions").items()
    }
    rows = len(tensors["row_places"])
    removed = np.unpackbits(tensors["removed"], axis=1, count=rows).astype(bool)
    fields: dict[str, Any] = {**about, **{name: tensors[name] for name in ARRAYS}}
    fields |= {"columns": tuple(about["columns"]), "removed": removed, "questions": questions}
    return Bank(**fields)


def _digest(about: str, tensors: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(about.encode())
    for name, values in tensors.items():
        found.update(f"{name} {values.dtype.str} {values.shape}".encode())
        found.update(values.tobytes())
    return found.hexdigest()
