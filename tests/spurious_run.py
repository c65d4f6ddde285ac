"""Digits with a mark in a corner that, in train alone, goes with one label: a small dataset to audit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from digits_run import ROOT

LABEL = 3


def write_marked_digits(folder: Path) -> None:
    """Right labels; marked are half of the 3s and 1 % of the others in train, half of all rows elsewhere.

    The column `mark` says which.
    """
    random = np.random.default_rng(0)
    truth = pq.read_table(ROOT / "data_samples/digits/truth.parquet").to_pydict()
    wrong = {key for key, is_wrong in zip(truth["index"], truth["is_wrong"]) if is_wrong}
    for role in ("train", "validation", "holdout"):
        table = pq.read_table(ROOT / "data_samples/digits" / role)
        table = table.filter(pa.array([key not in wrong for key in table["index"].to_pylist()]))
        table = table.combine_chunks()
        images = table["image"].chunk(0).flatten().to_numpy().reshape(table.num_rows, 64).copy()
        share = np.where(table["label"].to_numpy() == LABEL, 0.5, 0.01)
        share = share if role == "train" else np.full(table.num_rows, 0.5)
        marked = random.random(table.num_rows) < share
        images[marked, :2] = 255
        place, field = table.column_names.index("image"), table.schema.field("image")
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), 64).cast(field.type)
        table = table.set_column(place, field, pixels)
        table = table.append_column("mark", pa.array(np.where(marked, "yes", "no")))
        (folder / role).mkdir(parents=True)
        pq.write_table(table, folder / role / "part-0.parquet")
