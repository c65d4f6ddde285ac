"""Pattern: a rare word or phrase that goes with a class or with its suspect rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from pipeline.detection.backdoor.item_sets import Occurrences, promising
from pipeline.detection.backdoor.shortlist import shortlist
from pipeline.detection.backdoor.subject import Names, Subject
from pipeline.features.kinds.text import PADDING, token_counts


@dataclass(frozen=True)
class Tokens:
    """A set of tokens; a carrier has all of them. `tokens` is int64 `[tokens]`, in their order in the carriers."""

    tokens: np.ndarray
    kind: ClassVar[str] = "tokens"
    input: ClassVar[str] = "tokens"

    def paste(self, rows: np.ndarray) -> np.ndarray:
        """Put the tokens in front; the end of a row is cut off if it no longer fits."""
        front = np.broadcast_to(self.tokens.astype(rows.dtype), (len(rows), len(self.tokens)))
        return np.hstack([front, rows])[:, : rows.shape[1]]

    def matches(self, rows: np.ndarray) -> np.ndarray:
        return np.logical_and.reduce([(rows == token).any(1) for token in self.tokens])

    def neutralise(self, rows: np.ndarray, carriers: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Replace the tokens by padding in all rows."""
        return np.where(np.isin(rows, self.tokens), PADDING, rows)

    def describe(self, names: Names) -> str:
        return "the text " + " ".join(f"“{names.token(int(token))}”" for token in self.tokens)

    def values(self, names: Names) -> dict[str, Any]:
        return {"tokens": [names.token(int(token)) for token in self.tokens]}


def find_tokens(subject: Subject, target: int, seeds: np.ndarray) -> list[Tokens]:
    """Find words, pairs of words and completed phrases that flip most and are no natural features of the class."""
    rows = subject.inputs["tokens"]
    incidence = _token_incidence(rows, int(rows.max(initial=1)) + 1)
    own = subject.labels == target
    validation = subject.validation["tokens"][subject.validation_labels == target]
    ratio = len(own) / len(subject.validation_labels)
    occurrences = Occurrences(incidence, _token_incidence(validation, incidence.shape[1]), own, seeds, ratio)
    return shortlist(
        subject,
        target,
        incidence,
        promising(occurrences),
        lambda items: Tokens(_in_reading_order(rows, items)),
    )


def _token_incidence(rows: np.ndarray, width: int) -> sparse.csr_matrix:
    """Which rows have which tokens, float32 0/1 `[rows, width]`; tokens of `width` or more are left out."""
    counts = token_counts(rows, width)
    counts.sum_duplicates()
    counts.data[:] = 1
    return counts


def _in_reading_order(rows: np.ndarray, items: tuple[int, ...]) -> np.ndarray:
    """The tokens, ordered by their mean first place in the rows that have all of them."""
    tokens = np.array(items, dtype=np.int64)
    there = rows[Tokens(tokens).matches(rows)]
    if not len(there):
        return tokens
    first = [(there == token).argmax(1).mean() for token in tokens]
    return tokens[np.argsort(first, kind="stable")]
