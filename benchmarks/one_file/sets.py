"""The sets of the benchmark: rows for the one file, and test rows with true labels that no audit sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.detection_tasks import ADULT, CONCRETE, GIVEN, breast_cancer, concrete, digits
from data_samples import originals
from pipeline.errors import InputError
from pipeline.seeds import random_state

Kind = Literal["text", "table", "pixels"]

MOST_ROWS, MOST_TEST_ROWS = 3000, 3000
ASIDE = 0.3
"""Share of the rows that is set aside for the test where a set has no test rows of its own, or too few."""


@dataclass(frozen=True)
class OneFileSet:
    """A set with true labels in the column `label`.

    read: gives its rows and its own test rows, or None where `ASIDE` of the rows are set aside; folder: where its
    files lie in the data directory, None for what scikit-learn has; features: column -> kind; human: columns with
    labels that people gave, which take the place of planted noise.
    """

    read: Callable[[Path], tuple[pa.Table, pa.Table | None]]
    folder: str | None
    kind: Kind
    features: dict[str, str]
    regression: bool = False
    human: tuple[str, ...] = ()


def parts(folder: Path, columns: dict[str, str]) -> tuple[pa.Table, pa.Table]:
    """train.parquet and test.parquet of a folder; columns: name there -> name here.

    Raises InputError when a file or a column is not there.
    """
    tables = []
    for part in ("train", "test"):
        path = folder / f"{part}.parquet"
        try:
            table = pq.read_table(path)
            table = table.select(list(columns)).rename_columns(list(columns.values()))
        except (OSError, KeyError, pa.ArrowException) as error:
            raise InputError(
                f"{path}: {error}", "docs/measurements/one-file.md says what it holds."
            ) from None
        kept = {key: value for key, value in (table.schema.metadata or {}).items() if b"image" in key}
        tables.append(table.replace_schema_metadata(kept))
    return tables[0], tables[1]


def text(folder: Path) -> tuple[pa.Table, pa.Table]:
    return parts(folder, {"text": "text", "label": GIVEN})


def pictures(folder: Path) -> tuple[pa.Table, pa.Table]:
    return parts(folder, {"image": "image", "label": GIVEN})


def human_pictures(folder: Path) -> tuple[pa.Table, pa.Table]:
    """CIFAR-10: pictures of 32x32 in colour with true labels and, for its train part, labels by people."""
    names = {f"noisy_label_{name}": f"human_{name}" for name in ("worse", "random1")}
    return parts(folder, {"image": "image", "clean_label": GIVEN} | names)


def adult(folder: Path) -> tuple[pa.Table, pa.Table]:
    original = originals.adult(folder.parent)
    table = original.features.append_column(GIVEN, pa.array(original.classes)).replace_schema_metadata()
    assert original.is_test is not None
    return table.filter(pa.array(~original.is_test)), table.filter(pa.array(original.is_test))


def whole(read: Callable[[Path], pa.Table]) -> Callable[[Path], tuple[pa.Table, None]]:
    """A set that has no test rows of its own."""
    return lambda folder: (read(folder), None)


IMAGE, TEXT = {"image": "image"}, {"text": "text"}
SETS = {
    "breast_cancer": OneFileSet(
        whole(breast_cancer),
        None,
        "table",
        {name: "numeric" for name in breast_cancer(Path()).column_names if name != GIVEN},
    ),
    "digits": OneFileSet(whole(digits), None, "pixels", IMAGE),
    "sms_spam": OneFileSet(text, "sms_spam", "text", TEXT),
    "trec": OneFileSet(text, "trec", "text", TEXT),
    "sst2": OneFileSet(text, "sst2", "text", TEXT),
    "adult": OneFileSet(
        adult, "uci_adult", "table", {name: kind for kind, names in ADULT.items() for name in names.split()}
    ),
    "uci_concrete": OneFileSet(
        whole(concrete), "uci_concrete", "table", dict.fromkeys(CONCRETE.split(), "numeric"), regression=True
    ),
    "fashion_mnist": OneFileSet(pictures, "fashion_mnist", "pixels", IMAGE),
    "cifar10": OneFileSet(
        human_pictures, "cifar10_first4000", "pixels", IMAGE, human=("human_worse", "human_random1")
    ),
}


def available(names: list[str], data: Path) -> list[str]:
    """The sets whose files are there; says which are not."""
    found = []
    for name in names:
        folder = SETS[name].folder
        if folder is None or (data / folder).is_dir():
            found.append(name)
        else:
            print(
                f"{name}: left out, {data / folder} is not there (docs/measurements/one-file.md says what it holds)"
            )
    return found


def draw(name: str, data: Path, seed: int) -> tuple[pa.Table, pa.Table]:
    """Rows for the one file and test rows, drawn by the seed; no content is in both."""
    known = SETS[name]
    rows, test = known.read(data / (known.folder or ""))
    random = random_state(f"one file {name}", seed)
    order = random.permutation(rows.num_rows)
    if test is None:
        cut = round(ASIDE * rows.num_rows)
        test, order = rows.take(pa.array(np.sort(order[:cut]))), order[cut:]
    else:
        chosen = np.sort(random.permutation(test.num_rows)[:MOST_TEST_ROWS])
        test = test.take(pa.array(chosen))
    rows = rows.take(pa.array(np.sort(order[:MOST_ROWS])))
    seen = set(contents(rows, known))
    apart = pa.array([content not in seen for content in contents(test, known)])
    return rows, test.filter(apart)


def contents(rows: pa.Table, known: OneFileSet) -> list[object]:
    """What the features of every row are, to be compared; texts up to case and white space."""
    if known.kind == "text":
        return [" ".join(value.casefold().split()) for value in rows["text"].to_pylist()]
    if known.kind == "pixels":
        column = rows["image"].combine_chunks()
        pixels = column.flatten().to_numpy().reshape(rows.num_rows, -1)
        return [row.tobytes() for row in pixels]
    return list(zip(*(rows[name].to_pylist() for name in known.features), strict=True))


def class_codes(labels: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The classes in order, and every row's place among them, int64 `[rows]`."""
    names = np.array(sorted(pc.unique(labels).to_pylist()))
    return names, np.searchsorted(names, labels.to_numpy())
