"""Make the sample datasets: draw disjoint roles, or rows of one file, plant wrong labels, write Parquet files.

    python -m data_samples.make --only digits                remade from scikit-learn alone
    python -m data_samples.make --source DIR                 all of them; DIR: see data_samples/originals.py

Each sample becomes `NAME/{train,validation,holdout}/part-000.parquet …`, or the one file `NAME/NAME.parquet`, and
`NAME/truth.parquet`. Seeds are fixed: with the same pyarrow the same files come out, byte for byte.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_samples import originals
from data_samples.originals import Integers, Original
from pipeline.errors import InputError, WinnowError
from pipeline.runs.directory import write_atomically

SHARE_WRONG = 0.10
SHARE_WRONG_IN_FILE = 0.20
ROLE_SEED = 0
NOISE_SEED = 1

Noise = Literal["uniform", "class pairs"]


@dataclass(frozen=True)
class Recipe:
    """What one sample is made of; `rows` is the size of each role, or of the one file.

    Wrong labels, `share_wrong` of them, are planted in train or in all of the one file.
    """

    read: Callable[[Path], Original] | None  # None: scikit-learn's digits, which need no folder
    rows: dict[str, int]
    rows_per_shard: int
    rows_per_group: int
    noise: Noise = "uniform"
    share_wrong: float = SHARE_WRONG


ONE_FILE = "file"
"""The one role of a sample that is a single file with wrong labels in every part of it."""

_DIGITS_ROWS = {"train": 1200, "validation": 297, "holdout": 300}

RECIPES = {
    "digits": Recipe(None, _DIGITS_ROWS, 400, 100),
    "digits_pairs": Recipe(None, _DIGITS_ROWS, 400, 100, "class pairs"),
    "fashion_mnist": Recipe(
        originals.fashion_mnist, {"train": 6000, "validation": 1500, "holdout": 3000}, 1500, 500
    ),
    "fashion_mnist_file": Recipe(
        originals.fashion_mnist, {ONE_FILE: 4000}, 4000, 1000, share_wrong=SHARE_WRONG_IN_FILE
    ),
    "adult": Recipe(originals.adult, {"train": 6000, "validation": 1500, "holdout": 3000}, 1500, 500),
    "sms_spam": Recipe(originals.sms_spam, {"train": 3400, "validation": 1000, "holdout": 1100}, 1700, 500),
}


def draw_roles(original: Original, rows: dict[str, int]) -> dict[str, Integers]:
    """Draw `rows[role]` rows for every role, in the original's order; all copies of a content share one fate.

    Where the original has an official split, holdout comes from its test part and the other roles from its
    train part; a content that occurs in both parts is left out.

    Raises InputError if the original is too small.
    """
    copies: dict[Hashable, list[int]] = defaultdict(list)
    for row, content in enumerate(original.content):
        copies[content].append(row)
    waiting = list(copies.values())
    # RandomState, not Generator: its streams are frozen, so another numpy draws the same rows.
    waiting = [waiting[place] for place in np.random.RandomState(ROLE_SEED).permutation(len(waiting))]
    roles = {}
    for role, wanted in rows.items():
        chosen: list[int] = []
        left = []
        for group in waiting:
            fits = len(chosen) + len(group) <= wanted
            if fits and (original.is_test is None or np.all(original.is_test[group] == (role == "holdout"))):
                chosen.extend(group)
            else:
                left.append(group)
        if len(chosen) < wanted:
            raise InputError(
                f"The original has {len(chosen):,} rows for {role}, {wanted:,} are needed.",
                hint="Give the complete original files with --source.",
            )
        roles[role] = np.sort(np.array(chosen, dtype=np.int64))
        waiting = left
    return roles


def plant_wrong_labels(classes: Integers, class_count: int, noise: Noise, share: float) -> Integers:
    """Replace the class of exactly `share` of the rows (rounded), drawn at random without replacement.

    `uniform`: by one of the C − 1 other classes, each as likely. `class pairs`: c by (c + 1) mod C.
    Takes and gives codes 0 … C − 1, int64 [rows]; the argument is not changed.
    """
    random = np.random.RandomState(NOISE_SEED)
    wrong = random.choice(len(classes), size=round(share * len(classes)), replace=False)
    shift = random.randint(1, class_count, size=len(wrong)) if noise == "uniform" else 1
    given = classes.copy()
    given[wrong] = (classes[wrong] + shift) % class_count
    return given


def make(name: str, source: Path | None, output: Path) -> None:
    """Make the sample `name` in `output`/`name`; `source` is the folder of originals.

    Raises InputError if an original is missing, unreadable or too small.
    """
    recipe = RECIPES[name]
    if recipe.read is None:
        original = originals.digits()
    elif source is not None:
        original = recipe.read(source)
    else:
        raise InputError(
            f"'{name}' is made from original files and no folder was given.",
            hint="Give it with --source, or make only the digits with --only digits.",
        )
    share = f"{100 * recipe.share_wrong:g} % wrong labels"
    whole = f"{share} in all of the file ({recipe.noise})"
    in_train = f"{share} in train ({recipe.noise}); validation and holdout as they were"
    for role, rows in draw_roles(original, recipe.rows).items():
        classes = original.classes[rows]
        given = classes
        if role in ("train", ONE_FILE):
            given = plant_wrong_labels(classes, len(original.labels), recipe.noise, recipe.share_wrong)
            _write(_truth(original, rows, given), output / name / "truth.parquet", recipe.rows_per_group)
        table = _rows(original, rows, given)
        planted = whole if role == ONE_FILE else in_train
        table = table.replace_schema_metadata(table.schema.metadata | {"planted": planted})
        for number, start in enumerate(range(0, len(table), recipe.rows_per_shard)):
            path = (
                output
                / name
                / (f"{name}.parquet" if role == ONE_FILE else f"{role}/part-{number:03d}.parquet")
            )
            _write(table.slice(start, recipe.rows_per_shard), path, recipe.rows_per_group)


def _rows(original: Original, rows: Integers, given: Integers) -> pa.Table:
    features = original.features.take(rows)
    with_label = features.append_column("label", original.labels.take(pa.array(given)))
    return with_label.append_column("index", pa.array(original.index[rows]))


def _truth(original: Original, rows: Integers, given: Integers) -> pa.Table:
    true = original.classes[rows]
    return pa.table(
        {
            "index": original.index[rows],
            "true_label": original.labels.take(pa.array(true)),
            "given_label": original.labels.take(pa.array(given)),
            "is_wrong": given != true,
        }
    )


def _write(table: pa.Table, path: Path, rows_per_group: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=rows_per_group)


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status (1: not written; 2: wrong usage or originals)."""
    parser = argparse.ArgumentParser(
        prog="python -m data_samples.make", description="Make the sample datasets."
    )
    parser.add_argument("--source", type=Path, metavar="DIR", help="folder of the original Parquet files")
    parser.add_argument("--only", choices=RECIPES, metavar="NAME", help="one of: %(choices)s")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=Path(__file__).parent, help="default: data_samples/"
    )
    options = parser.parse_args(arguments)
    try:
        for name in [options.only] if options.only else RECIPES:
            make(name, options.source, options.output)
    except WinnowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
