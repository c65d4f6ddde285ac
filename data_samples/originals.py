"""The original datasets, brought into one form: features, class codes, and which rows are copies.

`digits` comes with scikit-learn. The others are read from a folder DIR of Parquet files:

    DIR/fashion_mnist/{train,test}.parquet  image (fixed_size_list<uint8>[784]), label (0-9), index
    DIR/uci_adult/{train,test}.parquet      age … native_country, label (0-1), index; categories are integer
                                            codes, named by the JSON list `categories` in the field metadata
    DIR/sms_spam/{train,test}.parquet       text (string), label (0 = ham, 1 = spam), index

`index` is the row's place in the original file. The schema metadata has the names of the classes as a JSON
list, `classes`, and `dataset`, `source` and (pictures) `image_shape` and `image_layout`, which are kept.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Original:
    """All rows of an original dataset, row i of every field being the same row."""

    features: pa.Table  # with the schema metadata that the sample keeps
    classes: Integers  # [rows], codes 0 … C − 1
    labels: pa.Array  # [C], the label that stands for each code
    index: Integers  # [rows], place in the original set; a test part is counted on from the train part
    content: list[Hashable]  # [rows], equal for rows that are copies of each other
    is_test: npt.NDArray[np.bool_] | None  # [rows], the official test part; None: no official split


def digits() -> Original:
    """scikit-learn's digits: 1,797 pictures of 8×8, grey values 0–16 scaled to 0–255."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    grey = loaded.data.astype(np.int64)
    pixels = ((grey * 255 + 8) // 16).astype(np.uint8)  # 255 / 16 · value, rounded half up
    metadata = {
        "image_shape": "[8, 8]",
        "image_layout": "HW",
        "dataset": "Optical Recognition of Handwritten Digits (test part)",
        "classes": json.dumps([str(name) for name in loaded.target_names]),
        "source": "sklearn.datasets.load_digits; UCI, https://doi.org/10.24432/C50P49",
        "licence": "CC BY 4.0",
        "changes": "grey values 0-16 scaled to 0-255",
    }
    image_type = pa.list_(pa.field("element", pa.uint8(), nullable=False), 64)
    image = pa.field("image", image_type, nullable=False, metadata={"shape": "[8, 8]", "layout": "HW"})
    column = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), type=image_type)
    return Original(
        features=pa.table([column], schema=pa.schema([image], metadata=metadata)),
        classes=loaded.target.astype(np.int64),
        labels=pa.array(range(10), pa.int64()),
        index=np.arange(len(pixels)),
        content=[row.tobytes() for row in pixels],
        is_test=None,
    )


def fashion_mnist(source: Path) -> Original:
    """Fashion-MNIST: 60,000 + 10,000 pictures of 28×28."""
    table, is_test = _read(source / "fashion_mnist", ["image", "label", "index"])
    pixels = table["image"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    return Original(
        features=_described(table.select(["image"]), licence="MIT"),
        classes=table["label"].to_numpy(),
        labels=pa.array(range(10), pa.int64()),
        index=_counted_on(table, is_test),
        content=[row.tobytes() for row in pixels],
        is_test=is_test,
    )


def adult(source: Path) -> Original:
    """Adult: 32,561 + 16,281 people; categories as strings, the "?" of the original as null."""
    table, is_test = _read(source / "uci_adult", ["label", "index"])
    features = table.drop_columns(["label", "index"])
    for place, field in enumerate(features.schema):
        if b"categories" in (field.metadata or {}):
            names = [None if name == "?" else name for name in json.loads(field.metadata[b"categories"])]
            column = pa.array(names, pa.string()).take(features.column(place).combine_chunks())
            features = features.set_column(place, pa.field(field.name, pa.string()), column)
    return Original(
        features=_described(features, licence="CC BY 4.0", changes="'?' is null"),
        classes=table["label"].to_numpy(),
        labels=_class_names(table),
        index=_counted_on(table, is_test),
        content=list(zip(*features.to_pydict().values(), strict=True)),
        is_test=is_test,
    )


def sms_spam(source: Path) -> Original:
    """SMS Spam Collection: 5,574 messages; copies are equal up to case and white space."""
    table, _ = _read(source / "sms_spam", ["text", "label", "index"])
    return Original(
        features=_described(table.select(["text"]), licence="CC BY 4.0"),
        classes=table["label"].to_numpy(),
        labels=_class_names(table),
        index=table["index"].to_numpy(),
        content=[" ".join(text.casefold().split()) for text in table["text"].to_pylist()],
        is_test=None,
    )


def _read(folder: Path, columns: list[str]) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """train.parquet and test.parquet of `folder` under each other, and which rows are of the latter."""
    parts = []
    for path in (folder / "train.parquet", folder / "test.parquet"):
        try:
            part = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{path} can't be read as a Parquet file: {error}",
                hint="Give the folder that holds the original files with --source.",
            ) from error
        for column in columns:
            if column not in part.column_names:
                raise InputError(
                    f"{path} has no column '{column}'.", hint="See data_samples/originals.py for the columns."
                )
        parts.append(part)
    return pa.concat_tables(parts), np.repeat([False, True], [len(part) for part in parts])


def _counted_on(table: pa.Table, is_test: npt.NDArray[np.bool_]) -> Integers:
    """Places in the official test part follow those of the train part, so that no two rows share one."""
    return table["index"].to_numpy() + np.where(is_test, np.sum(~is_test), 0)


def _class_names(table: pa.Table) -> pa.Array:
    return pa.array(json.loads(table.schema.metadata[b"classes"]), pa.string())


def _described(features: pa.Table, **more: str) -> pa.Table:
    """Keep what the original's schema metadata says of the data, and add to it."""
    kept = ("image_shape", "image_layout", "dataset", "classes", "source")
    metadata = {key.decode(): value.decode() for key, value in features.schema.metadata.items()}
    return features.replace_schema_metadata({key: metadata[key] for key in kept if key in metadata} | more)
