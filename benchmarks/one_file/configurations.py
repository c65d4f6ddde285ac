"""What is measured: sets, kinds and rates of noise and seeds, and the one file of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.detection_tasks import GIVEN
from benchmarks.one_file.noise import DECOY, SOURCE_COLUMN, Noisy, make_noise
from benchmarks.one_file.sets import SETS, OneFileSet, draw
from pipeline.config import digest
from pipeline.errors import InputError
from pipeline.runs.directory import write_atomically

KEY = "id"
SEEDS = 2
NAMING_SEEDS = 9
"""Of the configurations that say whether a bad source is named, with one and without one."""

CLASS_NOISES = (
    ("uniform", 0.1),
    ("none", 0.0),
    ("uniform", 0.2),
    ("pairs", 0.2),
    ("features", 0.2),
    ("source", 0.3),
    ("uniform", 0.05),
)
TARGET_NOISES = (("targets", 0.1), ("none", 0.0), ("targets", 0.2), ("shift", 1.0))
NAMING_NOISES = (("source", 0.3), (DECOY, 0.1))
STRUCTURED = {
    "breast_cancer": ("source", 0.3),
    "digits": ("pairs", 0.2),
    "sms_spam": ("source", 0.3),
    "trec": ("pairs", 0.2),
    "sst2": ("features", 0.2),
    "adult": ("source", 0.3),
    "uci_concrete": ("shift", 1.0),
    "fashion_mnist": ("features", 0.2),
    "cifar10": ("human_worse", 0.0),
}
"""The structured noise under which a set is retrained."""

QUICK_SETS, QUICK_NOISES = ("breast_cancer", "digits"), ("uniform", "none")


@dataclass(frozen=True)
class Configuration:
    """rate: share of wrong labels (shift: standard deviations); 0 where it is not chosen."""

    dataset: str
    noise: str
    rate: float
    seed: int

    @property
    def task(self) -> str:
        """DATASET/NOISE/RATE."""
        return f"{self.dataset}/{self.noise}/{self.rate:g}"

    @property
    def file_name(self) -> str:
        return f"{self.dataset}-{self.noise}-{self.rate:g}-{self.seed}"

    @property
    def known(self) -> OneFileSet:
        return SETS[self.dataset]

    @property
    def is_core(self) -> bool:
        """Whether its arms are retrained: uniform noise of 10 %, none, and one structured noise, seed 0."""
        usual = ("targets", 0.1) if self.known.regression else ("uniform", 0.1)
        if self.known.human:
            return self.seed == 0
        return self.seed == 0 and (self.noise, self.rate) in (usual, ("none", 0.0), STRUCTURED[self.dataset])

    @property
    def hash(self) -> str:
        return digest(asdict(self))


def noises_of(dataset: str) -> tuple[tuple[str, float], ...]:
    known = SETS[dataset]
    if known.human:
        return (("none", 0.0), *((name, 0.0) for name in known.human))
    return TARGET_NOISES if known.regression else CLASS_NOISES


def plan(datasets: Sequence[str], seeds: int = SEEDS) -> list[Configuration]:
    """All configurations: the first seed of all sets before the second, the first noise of all before the next."""
    most = max((len(noises_of(dataset)) for dataset in datasets), default=0)
    return [
        Configuration(dataset, *noises_of(dataset)[place], seed)
        for seed in range(seeds)
        for place in range(most)
        for dataset in datasets
        if place < len(noises_of(dataset))
    ]


def naming_plan(datasets: Sequence[str]) -> list[Configuration]:
    """Files with a column of sources, one of them bad or none, with more seeds."""
    return [
        Configuration(dataset, *noise, seed)
        for seed in range(NAMING_SEEDS)
        for noise in NAMING_NOISES
        for dataset in datasets
        if not SETS[dataset].human and not SETS[dataset].regression
    ]


def quick_plan() -> list[Configuration]:
    return [each for each in plan(QUICK_SETS, 1) if each.noise in QUICK_NOISES and each.rate in (0.0, 0.1)]


def only(planned: Sequence[Configuration], wanted: Sequence[str]) -> list[Configuration]:
    """Those of a set (`trec`), a set and a noise (`trec/pairs`), or a whole task (`trec/pairs/0.2`).

    Raises InputError when nothing is meant by one of them.
    """
    for name in wanted:
        if not any(matches(each, name) for each in planned):
            raise InputError(
                f"--only {name}: no such configuration", f"Sets: {', '.join(SETS)}; then /NOISE and /RATE."
            )
    return [each for each in planned if any(matches(each, name) for name in wanted)]


def matches(configuration: Configuration, name: str) -> bool:
    task = configuration.task
    return task == name or task.startswith(name.rstrip("/") + "/")


@dataclass(frozen=True)
class OneFile:
    """The file that a user brings, and what only the benchmark knows about it.

    rows: the table in the file, with the labels as given; true: the true labels, in its order; test: rows with true
    labels and the same columns.
    """

    path: Path
    regression: bool
    rows: pa.Table
    true: pa.Array
    noisy: Noisy
    test: pa.Table

    @property
    def wrong(self) -> np.ndarray:
        return self.noisy.wrong

    @property
    def test_path(self) -> Path:
        return self.path.with_name("test-rows") / self.path.name


def make_file(configuration: Configuration, data: Path, folder: Path) -> OneFile:
    """Write the file and, beside it in a folder of its own, the test rows."""
    known = configuration.known
    rows, test = draw(configuration.dataset, data, configuration.seed)
    noisy = make_noise(
        configuration.dataset, known, rows, configuration.noise, configuration.rate, configuration.seed
    )
    true = rows[GIVEN].combine_chunks()
    features = list(known.features)
    given = with_key(rows.select(features).append_column(GIVEN, noisy.given), "r")
    test = with_key(test.select([*features, GIVEN]), "t")
    if noisy.sources is not None:
        given = given.append_column(SOURCE_COLUMN, pa.array(noisy.sources))
        random = np.random.RandomState(configuration.seed)
        of_test = noisy.sources[random.randint(len(noisy.sources), size=test.num_rows)]
        test = test.append_column(SOURCE_COLUMN, pa.array(of_test))
    path = folder / f"{configuration.dataset}.parquet"
    found = OneFile(path, known.regression, given, true, noisy, test)
    for path, table in ((found.path, given), (found.test_path, test)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            pq.write_table(table, temporary)
    return found


def with_key(rows: pa.Table, prefix: str) -> pa.Table:
    return rows.append_column(KEY, pa.array([f"{prefix}{place:06d}" for place in range(rows.num_rows)]))
