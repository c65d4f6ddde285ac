"""Wrong labels in every part of one file: which rows get which other label, and from which source they come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from benchmarks.detection_noise import GIVEN, other_classes, plant_targets
from benchmarks.one_file.sets import OneFileSet, class_codes
from pipeline.seeds import random_state

SOURCES = ("aster", "birch", "cedar", "dahlia", "elm")
SOURCE_COLUMN = "vendor"
DECOY = "decoy"
"""The noise with a column of sources that says nothing."""
OTHER_SOURCES = 0.05
"""Share of wrong labels of the four better sources where one of five has more."""


@dataclass(frozen=True)
class Noisy:
    """given: the labels of the file; wrong: bool `[rows]`; sources: a name per row or None; bad: the worst one."""

    given: pa.Array
    wrong: np.ndarray
    sources: np.ndarray | None = None
    bad: str | None = None


def make_noise(name: str, known: OneFileSet, rows: pa.Table, noise: str, rate: float, seed: int) -> Noisy:
    """The given labels of the rows, the same for the same set, noise, rate and seed.

    - none: the true labels.
    - uniform: exactly `rate` of the rows get one of the other classes, each as likely.
    - pairs: class c becomes c + 1 (mod C) in `rate` of the rows; with two classes `rate` of the rows of the rarer
      class get the other one, and nothing else is wrong.
    - features: `rate` of the rows, the likelier the more a logistic regression that did not see them takes them for
      another class, get that class.
    - source: one of five sources, drawn at random for every row, has `rate` wrong labels (uniform) and the four
      others 5 % each; the column `vendor` names the source.
    - decoy: uniform noise, with a column `vendor` that says nothing.
    - human_...: the labels that people gave.
    - targets: `rate` of the rows get the target of another of them (regression).
    - shift: the targets of one of five sources are `rate` standard deviations too high (regression).
    """
    labels = rows[GIVEN].combine_chunks()
    random = random_state(f"one file {name} {noise}", seed, round(1000 * rate))
    if noise.startswith("human_"):
        given = rows[noise].combine_chunks()
        return Noisy(given, given.to_numpy() != labels.to_numpy())
    if known.regression:
        return of_targets(labels, noise, rate, random)
    names, codes = class_codes(rows[GIVEN])
    sources = bad = None
    if noise in ("source", DECOY):
        sources = random.randint(len(SOURCES), size=len(codes))
    if noise == "source":
        bad = random.randint(len(SOURCES))
        others = by_source(codes, len(names), sources, bad, rate, random)
    elif noise == "pairs" and len(names) == 2:
        others = one_way(codes, rate, random)
    else:
        kind = "uniform" if noise == DECOY else noise
        count = round(rate * len(codes))
        others = other_classes(known.features, rows, codes, len(names), kind, count, random)
    given = pa.array(names[np.where(others < 0, codes, others)], labels.type)
    return Noisy(
        given,
        others >= 0,
        None if sources is None else np.array(SOURCES)[sources],
        None if bad is None else SOURCES[bad],
    )


def of_targets(labels: pa.Array, noise: str, rate: float, random: np.random.RandomState) -> Noisy:
    if noise == "shift":
        values = labels.to_numpy()
        sources, bad = random.randint(len(SOURCES), size=len(values)), random.randint(len(SOURCES))
        wrong = sources == bad
        shifted = np.where(wrong, values + rate * values.std(), values)
        return Noisy(pa.array(shifted), wrong, np.array(SOURCES)[sources], SOURCES[bad])
    given, wrong = plant_targets(labels, round(rate * len(labels)) if noise == "targets" else 0, random)
    return Noisy(given, wrong)


def by_source(
    codes: np.ndarray,
    classes: int,
    sources: np.ndarray,
    bad: int,
    rate: float,
    random: np.random.RandomState,
) -> np.ndarray:
    """int64 `[rows]`: the wrong class of `rate` of the bad source's rows and of 5 % of each other's; −1 elsewhere."""
    others = np.full(len(codes), -1)
    for source in range(len(SOURCES)):
        mine = np.flatnonzero(sources == source)
        count = round((rate if source == bad else OTHER_SOURCES) * len(mine))
        places = random.permutation(mine)[:count]
        others[places] = (codes[places] + random.randint(1, classes, size=count)) % classes
    return others


def one_way(codes: np.ndarray, rate: float, random: np.random.RandomState) -> np.ndarray:
    """int64 `[rows]`: the other class in `rate` of the rows of the rarer of two classes; −1 elsewhere."""
    rarer = int(np.argmin(np.bincount(codes, minlength=2)))
    mine = np.flatnonzero(codes == rarer)
    others = np.full(len(codes), -1)
    others[random.permutation(mine)[: round(rate * len(mine))]] = 1 - rarer
    return others
