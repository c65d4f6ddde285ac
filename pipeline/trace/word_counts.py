"""Words of text columns as counts, and TF-IDF of them: the plainest likeness of two texts.

Words are read from the source, whatever the model is given of a text. They are hashed, so nothing has to be known of
the rows before they are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import load_file
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfTransformer
from torch import Tensor

from pipeline.data.catalog import catalog_tables
from pipeline.data.encoded import Chunk
from pipeline.data.originals import read_schema
from pipeline.data.source_batches import source_batches
from pipeline.features.encoder import Encoder
from pipeline.features.words import WORD, content
from pipeline.runs.tensors import save_tensors
from pipeline.workers.worker import run_data

HASHES = 2**20
"""How many columns counts have; words with the same hash are counted together."""


def text_columns(features: Sequence[Encoder]) -> list[Encoder]:
    """The features that are texts."""
    return [each for each in features if "texts" in each.judged_as]


def count_words(features: Sequence[Encoder], columns: Mapping[str, pa.Array]) -> sparse.csr_matrix:
    """How often each row has each word; the same word in another column is another word.

    Args:
        features: with at least one text, and others.
        columns: of the source, by name; all have as many rows. A null is an empty text.

    Returns:
        float32 `[rows, HASHES]`.
    """
    cells = [[each.words(value) for value in columns[each.column]] for each in text_columns(features)]
    hasher = FeatureHasher(HASHES, input_type="string", dtype=np.float32, alternate_sign=False)
    return hasher.transform(
        [
            f"{column} {word}"
            for column, text in enumerate(row)
            for word in WORD.findall(content(text).lower())
        ]
        for row in zip(*cells)
    )


def unreadable_source(run_path: Path) -> str:
    """Why the words of the train rows can't be read, as a sentence; empty if they can."""
    shards = dict.fromkeys(
        shard
        for table in catalog_tables(run_path, "train", ["shard"])
        for shard in table["shard"].unique().to_pylist()
    )
    gone = next((shard for shard in shards if read_schema(shard) is None), None)
    return f"Words are not compared: {gone} can't be read any more." if gone else ""


def write_counts(run_path: Path, folder: Path, chunks: Sequence[Chunk]) -> dict[str, Tensor]:
    """Write the counts of consecutive chunks of train rows, and sum up in how many rows each word is.

    Returns:
        rows_with: int64 `[HASHES]`.
    """
    features = run_data(run_path).encoding.features
    names = [each.column for each in text_columns(features)]
    sizes = [chunk.rows for chunk in chunks]
    rows_with = np.zeros(HASHES, dtype=np.int64)
    for chunk, source in zip(
        chunks, source_batches(run_path, chunks[0].role, chunks[0].first, sizes, names), strict=True
    ):
        counts = count_words(features, source)
        rows_with += np.bincount(counts.indices, minlength=HASHES)
        save_counts(counts_path(folder, chunk), counts)
    return {"rows_with": torch.from_numpy(rows_with)}


def counts_path(folder: Path, chunk: Chunk) -> Path:
    return folder / f"words-{chunk.id}.safetensors"


def save_counts(path: Path, counts: sparse.csr_matrix) -> None:
    parts = {"data": counts.data, "indices": counts.indices, "indptr": counts.indptr}
    save_tensors(path, {name: torch.from_numpy(part) for name, part in parts.items()})


def load_counts(path: Path) -> sparse.csr_matrix:
    parts = load_file(path)
    shape = (len(parts["indptr"]) - 1, HASHES)
    return sparse.csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape)


def weighting(rows_with: np.ndarray, rows: int) -> TfidfTransformer:
    """What turns counts into sublinear TF-IDF of length 1.

    Args:
        rows_with: in how many of the train rows each word is, `[HASHES]`.
        rows: how many train rows there are.
    """
    found = TfidfTransformer(sublinear_tf=True)
    found.idf_ = np.log((1 + rows) / (1 + rows_with)) + 1
    return found
