"""Audit a shipped sample as a user would, then say how much of what was planted in it was found.

    python -m benchmarks.demo [SAMPLE]

The audit is the command `winnow audit configs/SAMPLE.yaml`, run from the project's folder; its exit status is
passed on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.metrics import average_precision_score

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.results.result import AuditResult
from pipeline.text.decisions import CHANGED, Decision

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "data_samples"
WINNOW = (sys.executable, "-m", "flows.cli")
DONE, REFUSED = 0, 3


def main() -> int:
    names = sorted(path.parent.name for path in SAMPLES.glob("*/truth.parquet"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo")
    parser.add_argument("sample", nargs="?", default="fashion_mnist_file", choices=names)
    sample = parser.parse_args().sample
    config = f"configs/{sample}.yaml"
    print(f"$ winnow audit {config}", flush=True)
    status = subprocess.run([*WINNOW, "audit", config], cwd=ROOT).returncode
    if status in (DONE, REFUSED):
        result = AuditResult(newest_run(load_config(ROOT / config).name))
        truth = SAMPLES / sample / "truth.parquet"
        wrong = planted(truth, result.rows["row_key"])
        everywhere = pc.sum(pq.read_table(truth, columns=["is_wrong"])["is_wrong"]).as_py()
        report = result.paths["report"].relative_to(ROOT)
        print(f"{truth_line(result.rows, wrong, everywhere)} Report: {report}")
    return status


def newest_run(name: str) -> Path:
    """The run of this name whose record was written last."""
    records = (ROOT / "runs" / name).glob("*/record.json")
    return max(records, key=lambda path: path.stat().st_mtime).parent


def planted(truth: Path, row_keys: pa.ChunkedArray) -> np.ndarray:
    """bool `[rows]`: the label of the row with this key was planted, in the order of the keys.

    Raises InputError when truth.parquet does not know one of the rows.
    """
    table = pq.read_table(truth, columns=["index", "is_wrong"])
    places = pc.index_in(row_keys, value_set=table["index"].cast(pa.string()))
    if places.null_count:
        missing = row_keys.filter(pc.is_null(places))[0].as_py()
        raise InputError(f"{truth}: has no line for row {missing}", "Give the truth of the audited sample.")
    return table["is_wrong"].take(places).to_numpy()


def truth_line(rows: pa.Table, wrong: np.ndarray, everywhere: int) -> str:
    """How many planted labels there are, how many of them were found, and how well they are ranked.

    rows: rows.parquet; wrong: bool `[rows]`; everywhere: planted labels in the whole sample, audited or not. A row
    counts as found when the rule proposes to remove or to relabel it, whatever the gate then exports.
    """
    proposals = rows["decision"]
    if "proposed" in rows.column_names:
        proposals = pc.coalesce(rows["proposed"], proposals)
    found = pc.is_in(proposals, pa.array(CHANGED)).to_numpy()
    review = pc.equal(proposals, Decision.REVIEW.word).to_numpy()
    hits = int((found & wrong).sum())
    planted_line = f"Planted wrong labels: {everywhere:,}"
    if everywhere > wrong.sum():
        planted_line += f", {wrong.sum():,} of them in the {len(rows):,} rows that were judged"
    count = f"To remove or relabel: {found.sum():,}"
    if found.any():
        count += f", of which {hits:,} were planted (precision {100 * hits / found.sum():.1f} %)"
    if review.any():
        count += f"; for review: {review.sum():,}, of which {(review & wrong).sum():,} were planted"
    ranked = average_precision_score(wrong, rows["suspicion"].to_numpy())
    return f"{planted_line}. {count}; ranked: average precision {ranked:.3f}."


if __name__ == "__main__":
    sys.exit(main())
