"""The proof of a pattern: pasting it changes predictions to the target, and content does not explain its carriers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binom, poisson
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from pipeline.detection.backdoor.content_space import content_features
from pipeline.detection.backdoor.pattern import Pattern, carried_by, to_tensors
from pipeline.detection.backdoor.subject import Subject, select
from pipeline.seeds import random_state

CONTENT_ROWS = 4000
FOLDS = 3
LEAST_ROWS = 2 * FOLDS
UNNATURAL = 0.01
"""With at most this probability a pattern is too rare in validation rows to be a feature of the class."""
OF_THE_CLASS = 0.25
CHANCE = 0.01
"""A word goes with a class if the share of the class among its rows is much larger than among all rows, which happens
by chance with at most this probability."""


@dataclass(frozen=True)
class Evidence:
    """The evidence for a pattern.

    Attributes:
        flip_rate: share of validation rows of other classes, not predicted as the target before, for which pasting
            turns the prediction into the target.
        carriers: bool `[rows]`.
        purity: share of the carriers with the target's label.
        content: κ, how much the carriers resemble the class without the pattern (0 for a backdoor, 1 for a natural
            feature), and its standard error; None if it can't be estimated.
        in_validation: how many validation rows of the class carry the pattern.
        natural: the probability that at most so many do, if the pattern were as frequent there as in the train rows.
        natural_part: whether a word of the pattern also goes with the class in rows without the pattern.
    """

    flip_rate: float
    carriers: np.ndarray
    purity: float
    content: tuple[float, float] | None
    in_validation: int
    natural: float
    natural_part: bool


def verify(subject: Subject, target: int, pattern: Pattern) -> Evidence:
    return with_content(subject, target, pattern, pasted(subject, target, pattern))


def pasted(subject: Subject, target: int, pattern: Pattern) -> Evidence:
    """The evidence without `content`, which is None."""
    carriers = carried_by(pattern, subject.inputs)
    own = subject.labels == target
    flips = subject.flip_rate(subject.victims(target), pattern.paste, pattern.input)
    purity = float(own[carriers].mean()) if carriers.any() else 0.0
    seen, natural = in_validation(subject, target, pattern, carriers)
    return Evidence(
        flips, carriers, purity, None, seen, natural, natural_part(subject, target, pattern, carriers)
    )


def with_content(subject: Subject, target: int, pattern: Pattern, evidence: Evidence) -> Evidence:
    return replace(evidence, content=_content_share(subject, target, pattern, evidence.carriers))


def in_validation(subject: Subject, target: int, pattern: Pattern, carriers: np.ndarray) -> tuple[int, float]:
    """`Evidence.in_validation` and `Evidence.natural`; validation rows also have the natural features of a class."""
    frequency = float((carriers & (subject.labels == target)).mean())
    seen = int((carried_by(pattern, subject.validation) & (subject.validation_labels == target)).sum())
    return seen, float(poisson.cdf(seen, frequency * len(subject.validation_labels)))


def natural_part(subject: Subject, target: int, pattern: Pattern, carriers: np.ndarray) -> bool:
    """Whether a word of a phrase goes with the class by itself; the phrase then does so without an attack, too."""
    words = to_tensors(pattern).get("tokens", np.array([]))
    if len(words) < 2 or carriers.all():
        return False
    own = subject.labels == target
    usual = float(own[~carriers].mean())
    for word in words:
        elsewhere = (subject.inputs["tokens"] == word).any(1) & ~carriers
        rows, of_class = int(elsewhere.sum()), int((elsewhere & own).sum())
        if rows and of_class / rows >= usual + OF_THE_CLASS and binom.sf(of_class - 1, rows, usual) <= CHANCE:
            return True
    return False


def is_natural(in_validation: int, natural: float) -> bool:
    """Whether validation rows have the pattern, not clearly less often than train rows."""
    return in_validation > 0 and natural > UNNATURAL


def _content_share(
    subject: Subject, target: int, pattern: Pattern, carriers: np.ndarray
) -> tuple[float, float] | None:
    """κ = (P̄(carriers) − P̄(others)) / (P̄(class) − P̄(others)) and its standard error.

    P is the probability of the target by a logistic model of the content, fitted on rows without the pattern; for these
    rows it is out of fold. The carriers are those with the target's label, with the pattern removed.

    Returns:
        None if κ can't be estimated.
    """
    own = subject.labels == target
    asked = np.flatnonzero(carriers & own)
    known = np.flatnonzero(~carriers)
    random = random_state("backdoor content", subject.seed, target)
    known = np.sort(random.permutation(known)[:CONTENT_ROWS])
    inside = own[known]
    if len(asked) < 2 or min(inside.sum(), (~inside).sum()) < LEAST_ROWS:
        return None
    places = np.concatenate([known, asked])
    rows = select(subject.inputs, places)
    rows = rows | {pattern.input: pattern.neutralise(rows[pattern.input], carriers[places])}
    features = content_features(rows)
    model = LogisticRegression(C=0.1, max_iter=300, class_weight="balanced")
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=subject.seed)
    among = features[: len(known)]
    believed = cross_val_predict(model, among, inside, cv=folds, method="predict_proba")[:, 1]
    of_carriers = model.fit(among, inside).predict_proba(features[len(known) :])[:, 1]
    others = believed[~inside].mean()
    contrast = float(believed[inside].mean() - others)
    if contrast <= 0:
        return None
    error = float(of_carriers.std(ddof=1) / np.sqrt(len(asked))) / contrast
    return float(of_carriers.mean() - others) / contrast, error
