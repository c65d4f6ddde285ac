"""An audit of one small file all of whose parts have wrong labels, with rows of every role judged by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import AuditConfig
from pipeline.detection.reasons import bit
from pipeline.detection.table import Judgement, write_rows
from pipeline.runs.directory import RunDirectory
from pipeline.text.decisions import Decision
from pipeline.text.reasons import MISLABELLED
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data

KEEP, REVIEW, REMOVE, RELABEL = Decision

ROWS = 320


def write_source(path: Path) -> np.ndarray:
    """Rows of two blobs, every ninth with the other label; returns which labels are wrong."""
    random = np.random.default_rng(0)
    truth = np.arange(ROWS) % 2
    wrong = np.arange(ROWS) % 9 == 4
    names = np.array(["ham", "spam"])
    columns = {
        "id": [f"k{row}" for row in range(ROWS)],
        "x": 4.0 * truth + random.normal(size=ROWS),
        "y": random.normal(size=ROWS),
        "label": names[np.where(wrong, 1 - truth, truth)],
    }
    pq.write_table(pa.table(columns), path, row_group_size=100)
    return wrong


def one_file_config(source: Path, **verification: object) -> AuditConfig:
    tree = {
        "name": "one",
        "data": {
            "train": str(source),
            "split": {"fractions": [0.6, 0.2, 0.2]},
            "features": {"x": "numeric", "y": "numeric"},
            "label": "label",
            "key": "id",
        },
        "model": {"name": "mlp", "hidden": [8]},
        "training": {"epochs": 6, "checkpoints": 2, "batch_size": 20},
        "compute": {"workers": 1},
        "verification": {"seeds": 0, "fidelity": 0} | verification,
    }
    return AuditConfig.model_validate(tree)


def judge_all_roles(run: RunDirectory) -> dict[str, dict[str, str]]:
    """Rewrite rows.parquet with some decision for the rows of every role; returns role → key → decision."""
    data = run_data(run.path)
    random = np.random.default_rng(1)
    judgements = {}
    for role in ("train", "validation", "holdout"):
        given = role_labels(data, role).numpy()
        decision = random.choice([KEEP] * 5 + [REVIEW, REMOVE, RELABEL], len(given)).astype(np.uint8)
        judgements[role] = Judgement(
            suspicion=random.uniform(size=len(given)),
            suggested=1 - given,
            suggested_probability=np.full(len(given), 0.9),
            contradicted=decision != KEEP,
            decision=decision,
            reasons=np.where(decision == KEEP, 0, bit(MISLABELLED)).astype(np.uint16),
            mean_loss=np.zeros(len(given)) if role == "train" else None,
        )
    write_rows(run.path, judgements)
    rows = pq.read_table(run / "rows.parquet", columns=["row_key", "split", "decision"]).to_pylist()
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["split"], {})[row["row_key"]] = row["decision"]
    return found
