"""Small datasets, and the stage `panel` run on them without workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import AuditConfig
from pipeline.data.encoded import EncodedData
from pipeline.data.prepare import prepare
from pipeline.panel.opinions import Panel, read_panel
from pipeline.panel.stage import panel_stage
from pipeline.runs.context import silent
from pipeline.runs.directory import RunDirectory, write_text


def run_here(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    names: Sequence[str],
    on_done: Callable[[int, Any], None] = lambda place, result: None,
) -> None:
    """What Workers.run does, in this process."""
    for place, (task, _) in enumerate(zip(tasks, names)):
        on_done(place, function(*task))


@dataclass(frozen=True)
class Judged:
    path: Path
    panel: Panel
    data: EncodedData
    facts: dict[str, Any]

    def labels(self, role: str = "train") -> np.ndarray:
        return self.data.load_role(role).labels.numpy()


def config(features: dict[str, str], detection: dict[str, Any] | None = None, **data: Any) -> AuditConfig:
    tree = {"features": features, "label": "label"} | data
    return AuditConfig.model_validate({"name": "small", "data": tree, "detection": detection or {}})


def judge(
    folder: Path,
    tables: dict[str, dict[str, Any] | pa.Table],
    features: dict[str, str],
    detection: dict[str, Any] | None = None,
    **data: Any,
) -> Judged:
    """Write one file per role, prepare them and let the panel judge."""
    for role, columns in tables.items():
        path = folder / f"{role}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
    files = {role: str(folder / f"{role}.parquet") for role in tables}
    context = make_context(config(features, detection, **files, **data), folder / "run")
    prepare(context)
    return judged(context)


def make_context(audit: AuditConfig, path: Path) -> Any:
    path.mkdir(parents=True, exist_ok=True)
    write_text(path / "config.yaml", audit.to_yaml())
    workers = SimpleNamespace(run=run_here)
    return SimpleNamespace(config=audit, run=RunDirectory(path), progress=silent, workers=workers)


def judged(context: Any) -> Judged:
    facts = panel_stage(context)
    path = context.run.path
    panel = read_panel(path)
    assert panel is not None
    return Judged(path, panel, EncodedData.open(path), facts)


def columns(rows: int, seed: int = 0, noise: float = 0.1) -> tuple[dict[str, Any], np.ndarray]:
    """Two numbers, a category and a flag that tell three classes apart, and where the label is wrong."""
    random = np.random.RandomState(seed)
    truth = random.randint(0, 3, rows)
    given = truth.copy()
    wrong = random.rand(rows) < noise
    given[wrong] = (truth[wrong] + random.randint(1, 3, wrong.sum())) % 3
    values = {
        "height": truth + random.normal(0, 0.4, rows),
        "width": random.normal(0, 1, rows) - truth,
        "colour": np.array(["red", "green", "blue"])[(truth + (random.rand(rows) < 0.3)) % 3],
        "label": given,
    }
    return values, wrong


COLUMNS = {"height": "numeric", "width": "numeric", "colour": "category"}
WORDS = (
    "match goal team player league",
    "market bank profit shares trade",
    "film actor scene director music",
)


def texts(rows: int, seed: int = 0, noise: float = 0.1) -> tuple[dict[str, Any], np.ndarray]:
    """Sentences about three subjects, and where the label is wrong."""
    random = np.random.RandomState(seed)
    truth = random.randint(0, 3, rows)
    given, wrong = truth.copy(), random.rand(rows) < noise
    given[wrong] = (truth[wrong] + random.randint(1, 3, wrong.sum())) % 3
    common = ["the", "a", "of", "and", "in", "it", "that", "said"]
    sentences = []
    for row in range(rows):
        about = random.choice(WORDS[truth[row]].split(), 3)
        sentences.append(" ".join([*random.choice(common, 4), *about, f"number{row}"]))
    return {"text": sentences, "label": given}, wrong
