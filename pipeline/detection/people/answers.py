"""Reads and writes review/answers.parquet: people's verdicts on sampled rows, with the plan of the sample."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.hashing import key_ids
from pipeline.detection.people.review_sample import RIGHT, UNANSWERED, UNSURE, WRONG, ReviewPlan
from pipeline.errors import InputError
from pipeline.runs.directory import write_atomically

METADATA = b"winnow_review"
VERDICTS = {"wrong": WRONG, "right": RIGHT, "unsure": UNSURE}


@dataclass(frozen=True)
class ReviewAnswers:
    """The answers of a review.

    Attributes:
        plan: of the sample.
        ranking: a hash of the candidates in the order of the ranking, for which the plan is valid.
        verdicts: row key → one of VERDICTS.
        labels: row key → the right label as a person wrote it, for some of the rows that are called wrong.
    """

    plan: ReviewPlan
    ranking: str
    verdicts: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def sample_id(self) -> str:
        """The id of the sample, which sheets carry so that answers for another sample are recognised."""
        text = json.dumps([self.plan.as_json(), self.ranking])
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def with_verdicts(self, more: dict[str, str], labels: dict[str, str]) -> ReviewAnswers:
        """Add verdicts and their labels; new verdicts replace earlier ones."""
        kept = {key: label for key, label in self.labels.items() if key not in more}
        return replace(self, verdicts=self.verdicts | more, labels=kept | labels)

    def of_candidates(self, row_ids: np.ndarray) -> np.ndarray:
        """UNANSWERED, RIGHT, UNSURE or WRONG for each candidate, int8; `row_ids` (int64) are in the same order."""
        found = np.full(self.plan.cutoffs[-1], UNANSWERED, dtype=np.int8)
        place = dict(zip(row_ids[: len(found)].tolist(), range(len(found))))
        for key, row_id in zip(self.verdicts, key_ids(list(self.verdicts)).tolist()):
            found[place[row_id]] = VERDICTS[self.verdicts[key]]
        return found

    def save(self, path: Path) -> None:
        about = json.dumps({"plan": self.plan.as_json(), "ranking": self.ranking})
        table = pa.table(
            {
                "row_key": pa.array(list(self.verdicts), pa.string()),
                "verdict": pa.array(list(self.verdicts.values()), pa.string()),
                "label": pa.array([self.labels.get(key) for key in self.verdicts], pa.string()),
            }
        ).replace_schema_metadata({METADATA: about.encode()})
        with write_atomically(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, path: Path) -> ReviewAnswers:
        """Read answers from a file.

        Raises:
            InputError: the file does not exist, or `winnow review` did not write it.
        """
        try:
            table = pq.read_table(path, partitioning=None)
            about = json.loads((table.schema.metadata or {})[METADATA])
        except FileNotFoundError:
            raise InputError(
                f"{path}: no such file", "`winnow review RUN --sample 200` begins one."
            ) from None
        except (OSError, KeyError, pa.ArrowException):
            raise InputError(
                f"{path}: not a file of answers", "Give review/answers.parquet of a reviewed run."
            ) from None
        verdicts = dict(zip(table["row_key"].to_pylist(), table["verdict"].to_pylist()))
        labels = {}
        if "label" in table.column_names:
            given = zip(verdicts, table["label"].to_pylist())
            labels = {key: label for key, label in given if label is not None}
        return cls(ReviewPlan.from_json(about["plan"]), about["ranking"], verdicts, labels)


def ranking_hash(row_ids: np.ndarray, plan: ReviewPlan) -> str:
    """The hash of the candidates that the plan can ask about, in order; `row_ids` is int64 `[candidates]`."""
    head = np.ascontiguousarray(row_ids[: plan.cutoffs[-1]], dtype="<i8")
    return hashlib.sha256(head.tobytes()).hexdigest()[:16]
