"""A signal that is registered from outside is part of an audit, without a change of any other file."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from digits_run import ROOT, digits_config, run_until

from pipeline.detection.signals import Signal, register, registry
from pipeline.detection.signals.evidence import Evidence
from pipeline.runs.directory import RunDirectory


def brightness(evidence: Evidence) -> np.ndarray:
    """The mean of a row's pixels, 0 … 255."""
    inputs = evidence.data.load_role("train").inputs
    return inputs.flatten(1).double().mean(1).numpy()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Signal:
    monkeypatch.setattr(registry, "_SIGNALS", dict(registry._SIGNALS))
    return register(
        Signal(
            name="brightness",
            label="a dark picture",
            words="how bright the row's picture is",
            high_is_suspicious=False,
            counts=True,
            of_training=brightness,
        )
    )


def test_a_registered_signal_is_computed_ranked_and_shown(registered: Signal, detected_run: Path) -> None:
    ranked = pq.read_table(detected_run / "rows.parquet")["suspicion"]
    run_until(digits_config(verification__seeds=0), detected_run, "report")  # detection is done anew for it
    signals = pq.read_table(detected_run / "signals.parquet")
    values = signals[registered.name].to_numpy()
    source = pq.read_table(ROOT / "data_samples/digits/train", columns=["index", "image"]).to_pylist()
    bright = {str(row["index"]): np.mean(row["image"]) for row in source}
    np.testing.assert_allclose(values, [bright[key] for key in signals["row_key"].to_pylist()], rtol=1e-12)
    facts = RunDirectory(detected_run).facts("detect")
    assert facts["weights"][registered.name] == facts["weights"]["early_loss"] > 0
    assert pq.read_table(detected_run / "rows.parquet")["suspicion"] != ranked
    page = html.unescape((detected_run / "report/index.html").read_text(encoding="utf-8"))
    said = "How bright the row's picture is"
    assert f"<dt>{registered.label}</dt><dd>{said}; low is suspicious (column brightness of" in page
    assert f"{said}: " in page.partition("<dt>suspicion</dt>")[0]  # on the bars of the rows
