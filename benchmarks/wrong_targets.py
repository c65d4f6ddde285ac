"""The estimated share of wrong numeric targets in one noisy file, beside the true share.

    python -m benchmarks.wrong_targets [--data DIR] [--draws N]

Targets of a share of the rows are exchanged among these rows. The judges of an audit's panel judge the train rows, and
their residuals alone give the estimate. Three sets come from scikit-learn: diabetes, whose targets are hard to predict,
and Friedman's first function with normal errors, as it is and as the exponent of a skewed target. With `--data`, the
sets of DIR with numeric targets come too. The last line of a set is the share of wrong rows among those that are likely
wrong, and of the wrong rows that are found so.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.datasets import load_diabetes, make_friedman1

from benchmarks.panel_run import run_panel
from benchmarks.results import write_results
from pipeline.config import AuditConfig
from pipeline.data.catalog import read_catalog
from pipeline.detection.judges.residuals import robust_deviation
from pipeline.detection.judges.target_judges import TargetJudges, explained
from pipeline.detection.noise.flag_counts import count_exchanged
from pipeline.detection.noise.judge_noise import exchanged_targets_of
from pipeline.detection.noise.wrong_targets import rarity_among_exchanged
from pipeline.panel.opinions import Panel
from pipeline.seeds import random_state
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data

ROWS = 1000
SHARES = (0.0, 0.05, 0.1, 0.2)
FOLDERS = {"uci_concrete": "target", "uci_parkinsons": "target"}
"""Folder of DIR → its label."""


def sets(data: Path | None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, features `[rows, columns]` and targets `[rows]`."""
    yield ("diabetes", *load_diabetes(return_X_y=True))
    features, targets = make_friedman1(ROWS, noise=1.0, random_state=0)
    yield "friedman", features, targets
    yield "friedman, exponent", features, np.exp(targets / 5)
    for name, label in FOLDERS.items():
        files = sorted((data / name).glob("train*.parquet")) if data else []
        if files:
            table = pq.read_table(files).to_pandas().select_dtypes("number")
            table = table.sample(min(ROWS, len(table)), random_state=0)
            yield (
                name,
                table.drop(columns=[label, "index"], errors="ignore").to_numpy(),
                table[label].to_numpy(),
            )


def exchanged(
    targets: np.ndarray, share: float, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """The given targets, and which are wrong, bool `[rows]`."""
    given, chosen = targets.copy(), random.permutation(len(targets))[: round(share * len(targets))]
    given[chosen] = targets[np.roll(chosen, 1)]
    return given, given != targets


def measure(features: np.ndarray, given: np.ndarray, wrong: np.ndarray, folder: Path) -> dict[str, Any]:
    """What the panel of one file says of its train rows."""
    names = [f"x{column}" for column in range(features.shape[1])]
    columns = {name: features[:, at] for at, name in enumerate(names)} | {"y": given.astype(np.float64)}
    pq.write_table(pa.table(columns), folder / "file.parquet")
    data = {
        "train": str(folder / "file.parquet"),
        "split": {"fractions": [0.7, 0.15, 0.15]},
        "features": dict.fromkeys(names, "numeric"),
        "label": "y",
    }
    run_panel(AuditConfig.model_validate({"name": "targets", "data": data}), folder / "run")
    labels = role_labels(run_data(folder / "run"), "train").numpy().astype(np.float64)
    panel = Panel(folder / "run")
    judges = TargetJudges(
        panel, labels, np.zeros(len(labels)), explained(labels, panel.mean("train")), vote=0.0
    )
    is_wrong = wrong[np.asarray(read_catalog(folder / "run", "train", ["row"])["row"])]
    estimate = exchanged_targets_of(judges, "train", labels, 0)
    found: dict[str, Any] = {"true": float(is_wrong.mean()), "explained": judges.explains}
    if estimate is None:
        return found
    predicted = judges.predicted("train")
    deviation = robust_deviation(labels, predicted)
    counts = count_exchanged(deviation, rarity_among_exchanged(labels, predicted, 0), estimate)
    flagged = np.argsort(-deviation)[: counts.likely_wrong]
    return found | {
        "estimate": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "likely_wrong": counts.likely_wrong,
        "hits": int(is_wrong[flagged].sum()),
        "wrong": int(is_wrong.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the original sets")
    parser.add_argument("--draws", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, features, targets in sets(arguments.data):
        for share in SHARES:
            for seed in range(arguments.draws if share else 1):
                given, wrong = exchanged(targets, share, random_state(f"wrong targets {name}", seed))
                with tempfile.TemporaryDirectory() as folder:
                    found = measure(features, given, wrong, Path(folder))
                line = {"task": f"{name}/{share:g}", "seed": seed, "method": "winnow", "metric": "share"}
                rows.append(line | {"value": found.pop("estimate", None), "n": len(targets)} | found)
                print(rows[-1], flush=True)
    print(write_results("wrong_targets", rows))


if __name__ == "__main__":
    main()
