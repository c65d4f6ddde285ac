"""A dataset of any size: real handwritten digits (64 pixels) with seeded jitter, as Parquet shards.

    python -m benchmarks.large_data --rows 2000000 FOLDER

Every row is a train row of data_samples/digits, whose labels have 10 % errors, plus normal noise of one grey level
out of 16 on each pixel: 64 columns of float32, and the label. The validation rows are made of validation rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SAMPLE = Path(__file__).parents[1] / "data_samples" / "digits"
FEATURES = [f"pixel_{place:02d}" for place in range(64)]
SHARD_ROWS = 250_000
GROUP_ROWS = 50_000
VALIDATION_ROWS = 5_000
JITTER = 1.0
LEVEL = 16  # of the sample's 255 grey levels make one of the digits' own 16


def make_dataset(folder: Path, rows: int, seed: int = 0) -> None:
    """Write `folder`/train and `folder`/validation unless they are there."""
    for role, count in (("train", rows), ("validation", VALIDATION_ROWS)):
        pixels, labels = read_digits(role)
        for shard, first in enumerate(range(0, count, SHARD_ROWS)):
            path = folder / role / f"part-{shard:05d}.parquet"
            if not path.exists():
                random = np.random.default_rng([seed, shard, role == "train"])
                write_shard(path, pixels, labels, min(SHARD_ROWS, count - first), random)


def read_digits(role: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 `[rows, 64]` in 0 to 16, and the labels."""
    table = pq.read_table(SAMPLE / role, columns=["image", "label"])
    pixels = table["image"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, len(FEATURES))
    return pixels.astype(np.float32) / LEVEL, table["label"].to_numpy()


def write_shard(
    path: Path, pixels: np.ndarray, labels: np.ndarray, rows: int, random: np.random.Generator
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    schema = pa.schema([*((name, pa.float32()) for name in FEATURES), ("label", pa.int64())])
    with pq.ParquetWriter(temporary, schema, use_dictionary=["label"]) as writer:
        for first in range(0, rows, GROUP_ROWS):
            chosen = random.integers(len(labels), size=min(GROUP_ROWS, rows - first))
            values = pixels[chosen] + random.normal(0, JITTER, (len(chosen), len(FEATURES))).astype(
                np.float32
            )
            columns = [pa.array(np.ascontiguousarray(column)) for column in values.T]
            writer.write_table(pa.table([*columns, pa.array(labels[chosen])], schema=schema))
    temporary.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make_dataset(given.folder, given.rows, given.seed)
