"""Run directories as the other stages would leave them, written from a table with known wrong labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import AuditConfig, Detection
from pipeline.data.encode import ENCODING
from pipeline.data.files import SourceFile, open_shards
from pipeline.data.prepare import create_encoding
from pipeline.detection.rules.promises import of_budget
from pipeline.detection.signals.registry import all_signals
from pipeline.runs.directory import RunDirectory, write_json

SIGNALS = ("early_margin", "early_loss", "early_harm", "neighbour_margin", "half_confidence")
LOW_IS_SUSPICIOUS = [each.name for each in all_signals() if not each.high_is_suspicious]


@dataclass(frozen=True)
class Context:
    config: AuditConfig
    run: RunDirectory


@dataclass
class RunBuilder:
    """Writes shards and a finished run over them; tests change the attributes before `build`."""

    folder: Path
    table: pa.Table
    wrong: np.ndarray  # bool [rows]: the label is wrong
    truth: list[Any]  # the right labels
    features: dict[str, str]
    label: str = "label"
    task: str = "classification"
    shards: int = 3
    verdict: str = "improved"
    data: dict[str, Any] = field(default_factory=dict)
    reasons: dict[int, list[str]] = field(default_factory=dict)
    decisions: dict[int, str] = field(default_factory=dict)
    with_export: bool = True
    refused: bool = False

    def build(self) -> Context:
        rows = self.table.num_rows
        config = AuditConfig.model_validate(
            {
                "name": "sample",
                "data": {
                    "train": "train/*.parquet",
                    "features": self.features,
                    "label": self.label,
                    **self.data,
                },
                "verification": {"seeds": 0 if self.verdict == "not tested" else 5},
            }
        )
        run = RunDirectory(self.folder / "runs" / "sample" / "2026-11-24-0312")
        run.path.mkdir(parents=True)
        places = self.write_shards()
        suspicion, signals = self.scores()
        (run / "config.yaml").write_text(config.to_yaml())
        shards = open_shards(
            [SourceFile(str(path), "train") for path in sorted(self.folder.glob("train/*.parquet"))]
        )
        create_encoding(shards, config).save(run / ENCODING)
        pq.write_table(pa.table({"row_key": self.keys(places), **signals}), run / "signals.parquet")
        pq.write_table(self.rows(places, suspicion), run / "rows.parquet")
        write_json(run / "verification.json", self.verification(rows))
        write_json(run / "record.json", self.record(run.run_id, rows))
        if self.with_export and not self.refused:
            (run / "cleaned").mkdir()
            (run / "quarantine").mkdir()
            write_json(run / "cleaned.json", {})
        return Context(config, run)

    def write_shards(self) -> list[tuple[str, int]]:
        folder = self.folder / "train"
        folder.mkdir(parents=True, exist_ok=True)
        size = -(-self.table.num_rows // self.shards)
        places = []
        for part in range(self.shards):
            path = folder / f"part-{part:03d}.parquet"
            piece = self.table.slice(part * size, size)
            pq.write_table(piece, path, row_group_size=max(1, size // 3))
            places += [(str(path), row) for row in range(piece.num_rows)]
        return places

    def keys(self, places: list[tuple[str, int]]) -> list[str]:
        return [f"{Path(shard).name}#{row}" for shard, row in places]

    def scores(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        random = np.random.default_rng(0)
        raised = {name: random.normal(2.2 * self.wrong, 1.0) for name in SIGNALS}
        signals = {name: -raised[name] if name in LOW_IS_SUSPICIOUS else raised[name] for name in SIGNALS}
        ranks = [np.argsort(np.argsort(values)) for values in raised.values()]
        shares = [(rank + 0.5) / len(self.wrong) for rank in ranks]
        logits = np.mean([np.log(share / (1 - share)) for share in shares], axis=0)
        return 1 / (1 + np.exp(-logits)), signals

    def rows(self, places: list[tuple[str, int]], suspicion: np.ndarray) -> pa.Table:
        order = np.argsort(-suspicion)
        removed = max(1, round(0.07 * len(order)))
        decision, reasons = ["keep"] * len(order), [[] for _ in order]
        for place, at in enumerate(order[: round(1.4 * removed)]):
            decision[at] = "remove" if place < removed else "review"
            reasons[at] = ["mislabelled"] if place % 9 else ["mislabelled", "harmful"]
        for at, given in self.reasons.items():
            reasons[at], decision[at] = given, "remove"
        for at, given in self.decisions.items():
            decision[at] = given
            reasons[at] = [] if given == "keep" else reasons[at] or ["mislabelled"]
        kind = self.table.schema.field(self.label).type
        labels = self.table[self.label].to_pylist()
        differ = [d != "keep" and t != g for d, t, g in zip(decision, self.truth, labels, strict=True)]
        regression = self.task == "regression"
        suggested = [
            t if other and not regression else None for other, t in zip(differ, self.truth, strict=True)
        ]
        random = np.random.default_rng(1)
        n = len(order)
        return pa.table(
            {
                "row_key": self.keys(places),
                "shard": [shard for shard, _ in places],
                "row": pa.array([row for _, row in places], pa.int64()),
                "split": ["train"] * n,
                "label": pa.array(labels, kind),
                "predicted_label": pa.array(self.truth, kind),
                "suggested_label": pa.array(suggested, kind),
                "suggested_probability": [
                    None if s is None else float(p) for s, p in zip(suggested, random.uniform(0.5, 1, n))
                ],
                "self_influence": random.gamma(1, 0.2, n) * (1 + 4 * suspicion),
                "validation_harm": random.normal(0, 1e-5, n) + 3e-5 * suspicion,
                "mean_loss": 3 * suspicion,
                "final_loss": random.gamma(1, 0.1, n),
                "mean_margin": pa.array([None] * n if regression else list(3 - 6 * suspicion), pa.float64()),
                "suspicion": suspicion,
                "backdoor_score": pa.array([None] * n, pa.float64()),
                "decision": decision,
                "reasons": pa.array(reasons, pa.list_(pa.string())),
            }
        )

    def verification(self, rows: int) -> dict[str, Any]:
        if self.verdict == "not tested":
            return {"verdict": "not tested", "note": "Verification is off (verification.seeds is 0)."}
        gain = {"improved": 0.018, "no evidence": 0.002, "worse": -0.021}[self.verdict]
        random = np.random.default_rng(2)
        kept = rows - round(0.07 * rows)

        def arm(mean: float, count: int) -> dict[str, Any]:
            metric = list(mean + random.normal(0, 0.003, 5))
            loss = list(1.2 - mean + random.normal(0, 0.01, 5))
            return {"rows": count, "metric": metric, "metric_final": metric, "loss": loss}

        def difference(mean: float, half: float) -> dict[str, float]:
            return {"mean": mean, "low": mean - half, "high": mean + half}

        return {
            "metric": "r2" if self.task == "regression" else "accuracy",
            "higher_is_better": True,
            "verdict": self.verdict,
            "arms": {
                "as_given": arm(0.831, rows),
                "cleaned": arm(0.831 + gain, kept),
                "random_removal": arm(0.829, kept),
            },
            "differences": {
                "cleaned - as_given": {"metric": difference(gain, 0.007), "loss": difference(-gain, 0.01)},
                "cleaned - random_removal": {
                    "metric": difference(gain + 0.002, 0.008),
                    "loss": difference(-gain, 0.01),
                },
            },
            "predicted_loss_change": -0.212,
            "calibrated_by": "uncalibrated",
            "measured_loss_change": difference(-0.037, 0.011),
        }

    def record(self, run_id: str, rows: int) -> dict[str, Any]:
        facts = {
            "prepare": self.prepare_facts(rows),
            "train": {
                "early_epoch": 5,
                "epochs": 20,
                "steps": 20 * rows // 64,
                "curve": [curve_entry(epoch) for epoch in range(1, 21)],
                "metric": "r2" if self.task == "regression" else "accuracy",
                "validation_metric": 0.86,
                "parameters": 567_434,
                "model": "mlp, hidden 512, 256, 128",
            },
            "factors": {
                "coverage": {"covered": 567_434, "total": 567_434, "share": 1.0, "uncovered": []},
                "layers": 4,
                "checkpoints": 6,
                "segments": 1,
                "query_at": "tail",
            },
            "attribute": {},
            "detect": {
                "signals": list(SIGNALS),
                "words": {name: f"words for {name}" for name in SIGNALS},
                "estimated_noise": {"value": 0.061, "low": 0.052, "high": 0.07},
                "estimated_noise_note": "Blind to wrong labels that follow the model's own confusion.",
                "likely_wrong": round(0.07 * rows),
                "review": round(0.028 * rows),
                "caps": None,
                "flag_notes": [],
                "promise": of_budget(Detection()).as_json(),
            },
            "verify": {},
        }
        if self.with_export:
            facts["export"] = {"refused": self.refused, "rows_removed": round(0.07 * rows)}
        seconds = [3.2, 124, 48, 171, 9, 840, 2]
        stages = {
            stage: {
                "fingerprint": "0" * 16,
                "seconds": time,
                "peak_memory_bytes": 10**8 * (place + 3),
                "facts": entry,
            }
            for place, ((stage, entry), time) in enumerate(zip(facts.items(), seconds))
        }
        return {
            "run_id": run_id,
            "name": "sample",
            "versions": {"winnow": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "pyarrow": "26.0.1"},
            "seeds": {"split": None, "training": 0, "attribution": 0, "verification": 1},
            "device": "cpu",
            "threads": 2,
            "stages": stages,
        }

    def prepare_facts(self, rows: int) -> dict[str, Any]:
        return {
            "rows": {"train": rows, "validation": rows // 4, "holdout": rows // 2},
            "features": self.features,
            "task": self.task,
            "classes": 0 if self.task == "regression" else len(set(self.truth)),
            "warnings": ["12 rows have an empty text"] if "text" in self.features else [],
            "duplicates": {"groups": 7, "rows": 15, "conflicting_rows": 2},
        }


def curve_entry(epoch: int) -> dict[str, Any]:
    unseen = 0.9 * np.exp(-epoch / 2) + 0.45 + 0.002 * (epoch - 5) ** 2
    return {
        "epoch": epoch,
        "train_loss": 1.4 * float(np.exp(-epoch / 7)),
        "train_metric": 1 - 0.5 * float(np.exp(-epoch / 6)),
        "out_of_sample_loss": float(unseen),
        "validation_loss": float(unseen) - 0.06,
        "validation_metric": 0.86 - 0.4 * float(np.exp(-epoch / 2)),
    }


def flip(labels: list[Any], choices: list[Any], share: float = 0.1) -> tuple[list[Any], np.ndarray]:
    """Labels with a share of them replaced by the next choice, and which ones."""
    wrong = np.zeros(len(labels), dtype=bool)
    wrong[np.random.default_rng(3).choice(len(labels), round(share * len(labels)), replace=False)] = True
    following = dict(zip(choices, choices[1:] + choices[:1], strict=True))
    return [following[label] if bad else label for label, bad in zip(labels, wrong, strict=True)], wrong


@pytest.fixture
def images(tmp_path: Path) -> RunBuilder:
    """Small grey pictures: a bright column at the place of the class; labels are codes with names."""
    classes = np.arange(300) % 3
    pixels = np.random.default_rng(4).integers(0, 90, (300, 6, 6), dtype=np.uint8)
    for row, one in enumerate(classes):
        pixels[row, :, 2 * one] = 255
    given, wrong = flip(classes.tolist(), [0, 1, 2])
    column = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 36)
    schema = pa.schema(
        [("image", column.type), ("label", pa.int64())],
        metadata={"image_shape": "[6, 6]", "image_layout": "HW", "classes": '["left", "middle", "right"]'},
    )
    table = pa.table([column, pa.array(given, pa.int64())], schema=schema)
    return RunBuilder(tmp_path, table, wrong, classes.tolist(), {"image": "image"})


@pytest.fixture
def texts(tmp_path: Path) -> RunBuilder:
    """Short reviews with string labels and a group column; the third annotator makes the mistakes."""
    truth = ["negative", "positive"] * 100
    given, wrong = flip(truth, ["negative", "positive"])
    said = {"negative": "Dull, late and overpriced.", "positive": "Friendly people and good coffee."}
    table = pa.table(
        {
            "text": [f"{said[one]} Visit number {row}." for row, one in enumerate(truth)],
            "label": given,
            "annotator": ["carol" if bad else ("anna", "bert")[row % 2] for row, bad in enumerate(wrong)],
        }
    )
    return RunBuilder(tmp_path, table, wrong, truth, {"text": "text"}, data={"group": "annotator"})


@pytest.fixture
def numbers(tmp_path: Path) -> RunBuilder:
    """A regression on two numbers and a category, with some targets far off."""
    random = np.random.default_rng(5)
    size, age = random.normal(100, 20, 240), random.integers(0, 80, 240)
    target = 3 * size - age
    wrong = np.arange(240) % 11 == 0
    table = pa.table(
        {
            "size": size,
            "age": age,
            "town": np.where(np.arange(240) % 40 == 0, "Nowhere", "Somewhere").tolist(),
            "target": np.where(wrong, target + 150, target),
        }
    )
    features = {"size": "numeric", "age": "auto", "town": "category"}
    return RunBuilder(tmp_path, table, wrong, target.tolist(), features, label="target", task="regression")
