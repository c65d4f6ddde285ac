"""Retrainings without a source, and the forecast of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from pipeline.detection.sources.source_values import declared_sources, other_columns
from pipeline.runs.context import AuditContext
from pipeline.training.batches import Selection
from pipeline.verification import sources
from pipeline.verification.forecast import predicted_loss_change
from pipeline.verification.retrain import train_and_measure
from pipeline.verification.sources import judge_sources, over_rows, source_members

from .small_run import SAMPLES, digits_config, open_context

VENDORS = ("anna", "bert", "carol")


def write_shards(folder: Path) -> np.ndarray:
    """The digits with a vendor, an hour and a unique note; the vendors of the train rows."""
    for role in ("train", "validation", "holdout"):
        table = pq.read_table(SAMPLES / "digits" / role)
        rows = np.arange(table.num_rows)
        vendors = pa.array([None if row % 100 == 99 else VENDORS[row % 3] for row in rows])
        table = table.append_column("vendor", vendors).append_column("hour", pa.array(rows % 5))
        table = table.append_column("note", pa.array([f"note {row}" for row in rows]))
        (folder / role).mkdir(parents=True)
        half = table.num_rows // 2
        pq.write_table(table.slice(0, half), folder / role / "a.parquet")
        pq.write_table(table.slice(half), folder / role / "b.parquet")
        if role == "train":
            found = np.array(vendors.fill_null("none").to_pylist())
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditContext, np.ndarray]:
    folder = tmp_path_factory.mktemp("sources")
    vendors = write_shards(folder)
    changes = {f"data.{role}": [str(folder / role)] for role in ("train", "validation", "holdout")}
    config = digits_config().with_changes(changes | {"data.group": ["vendor"]})
    context = open_context(folder / "run", config)
    return context, vendors


def line(column: str, value: str, named: bool) -> dict[str, Any]:
    return {"column": column, "value": value, "named": named, "forecast": None, "measured": None}


def test_columns_are_read_in_the_order_of_the_rows(run: tuple[AuditContext, np.ndarray]) -> None:
    context, vendors = run
    vendor, shard = declared_sources(context.run.path)
    assert (vendor.name, vendor.seen, vendor.declared) == ("vendor", False, True)
    assert [vendor.values[code] for code in vendor.codes] == vendors.tolist()
    assert sorted(Path(value).name for value in shard.values) == ["a.parquet", "b.parquet"]
    both, _ = declared_sources(context.run.path, ["train", "validation"])
    assert (both.codes[: len(vendors)] == vendor.codes).all()
    assert len(both.codes) > len(vendors)


def test_undeclared_columns_of_few_values_are_tried(run: tuple[AuditContext, np.ndarray]) -> None:
    found = {column.name: column for column in other_columns(run[0].run.path)}
    assert "hour" in found
    assert not {"vendor", "note", "label", "index"} & set(found)
    assert not found["hour"].declared
    assert sorted(found["hour"].values) == ["0", "1", "2", "3", "4"]


def test_members_of_a_source_are_its_train_rows(run: tuple[AuditContext, np.ndarray]) -> None:
    context, vendors = run
    lines = [line("vendor", "bert", True), line("vendor", "none", False), line("hour", "3", False)]
    bert, none, hour = source_members(context.run.path, lines)
    assert (bert == (vendors == "bert")).all()
    assert (none == (vendors == "none")).all()
    assert (hour == (np.arange(len(vendors)) % 5 == 3)).all()


def test_the_worst_source_is_left_out_and_every_source_forecast(
    run: tuple[AuditContext, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, vendors = run
    effects = np.random.default_rng(0).normal(size=len(vendors))
    monkeypatch.setattr(sources, "train_effects", lambda _path: effects)
    lines = [line("vendor", "bert", True), line("vendor", "carol", True), line("vendor", "anna", False)]
    bert, carol, anna = judge_sources(context, lines)
    for found in (bert, carol, anna):
        expected = predicted_loss_change(effects, vendors == found["value"])
        assert found["forecast"] == pytest.approx(expected)
    assert carol["measured"] is None
    assert anna["measured"] is None

    measured = bert["measured"]
    path, seed = context.run.path, context.config.verification.seed
    given = train_and_measure(path, Selection(), seed)
    without = train_and_measure(path, Selection(keep=vendors != "bert"), seed)
    assert measured["seed"] == seed
    assert measured["rows"] == (vendors != "bert").sum()
    assert measured["validation_loss"] == float(without["validation_loss"] - given["validation_loss"])
    change = (without["tail_score"] - given["tail_score"]).double().mean()
    assert measured["metric"]["mean"] == pytest.approx(float(change))
    change = (without["tail_losses"] - given["tail_losses"]).double().mean()
    assert measured["loss"]["mean"] == pytest.approx(float(change))
    assert measured["metric"]["low"] <= measured["metric"]["mean"] <= measured["metric"]["high"]

    files = sorted((path / "verification" / "sources" / "without").iterdir())
    assert len(files) == 2
    assert {int(load_file(file)["rows"]) for file in files} == {len(vendors), measured["rows"]}
    before = [file.stat().st_mtime_ns for file in files]
    assert judge_sources(context, lines)[0] == bert
    assert [file.stat().st_mtime_ns for file in files] == before


def test_nothing_is_retrained_when_no_source_is_named_or_retraining_is_off(
    run: tuple[AuditContext, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _ = run
    monkeypatch.setattr(sources, "train_effects", lambda _path: None)
    (found,) = judge_sources(context, [line("vendor", "bert", False)])
    assert (found["forecast"], found["measured"]) == (None, None)
    for key in ("verification.sources", "verification.seeds"):
        off = AuditContext(context.config.with_changes({key: 0}), context.run, context.workers)
        (found,) = judge_sources(off, [line("vendor", "bert", True)])
        assert found["measured"] is None


def test_an_interval_over_rows_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0.3, 2.0, 400)
    found = over_rows(values)
    half = 1.959964 * values.std(ddof=1) / 20
    assert found == pytest.approx(
        {"mean": values.mean(), "low": values.mean() - half, "high": values.mean() + half}
    )
