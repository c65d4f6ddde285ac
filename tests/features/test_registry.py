from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.config import AuditConfig, Data
from pipeline.errors import InputError
from pipeline.features.registry import WORDS, built_in, find_input, find_kind
from pipeline.runs.directory import read_json

OWN = Path(__file__).parents[1] / "own_kind.py"
SILENT = [4, 17]


def test_every_file_is_a_kind_that_says_how_it_is_judged() -> None:
    assert WORDS == ("boolean", "category", "image", "list", "numeric", "text")
    for word, kind in built_in().items():
        assert (kind.kind, kind.__module__) == (word, f"pipeline.features.kinds.{word}")
        assert kind.judged_as in ("columns", "lists", "pixels", "texts")
        assert find_input(kind.input.name) is kind.input


@pytest.mark.parametrize("word", ["sound", "own_kind:", ":Sound", "own kind:Sound", "own_kind"])
def test_the_config_takes_no_other_words(word: str) -> None:
    with pytest.raises(
        ValueError, match="not auto, boolean, category, image, list, numeric, text, or package"
    ):
        Data.model_validate({"train": "t", "features": {"x": word}, "label": "label"})


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("own_kind:Missing", r"can't be imported \(AttributeError"),
        ("no_such_module:Sound", r"can't be imported \(ModuleNotFoundError"),
        ("own_kind:waves", "is no kind of feature: it does not derive from Encoder"),
        (
            "own_kind:Half",
            "is no kind of feature: it has no create, encode, finish, shape, supports, update, input",
        ),
        ("own_kind:Unjudged", "is no kind of feature: it has odd_in without broken"),
    ],
)
def test_a_kind_of_ones_own_that_cannot_be_used_is_named(word: str, said: str) -> None:
    with pytest.raises(InputError, match=f"data.features: {word} {said}"):
        find_kind(word)


def write_sounds(path: Path, rows: int, seed: int) -> np.ndarray:
    """Tones of two pitches; returns which rows have the other label."""
    random = np.random.default_rng(seed)
    pitch = np.arange(rows) % 2
    tones = np.sin(np.arange(24) * (0.4 + 0.5 * pitch[:, None])) + 0.2 * random.normal(size=(rows, 24))
    samples = np.clip(tones * 2**13, -(2**15), 2**15 - 1).astype("<i2")
    wrong = np.arange(rows) % 10 == 3
    if seed == 0:
        samples[SILENT] = 0
    else:
        wrong[:] = False
    labels = np.array(["low", "high"])[np.where(wrong, 1 - pitch, pitch)]
    pq.write_table(pa.table({"clip": [each.tobytes() for each in samples], "label": labels}), path)
    return wrong


def test_a_kind_registered_from_outside_is_audited_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(OWN, tmp_path)
    monkeypatch.chdir(tmp_path)
    wrong = write_sounds(tmp_path / "train.parquet", 60, 0)
    for seed, role in enumerate(("validation", "holdout"), 1):
        write_sounds(tmp_path / f"{role}.parquet", 20, seed)
    tree = {
        "name": "sounds",
        "data": {role: f"{role}.parquet" for role in ("train", "validation", "holdout")}
        | {"features": {"clip": "own_kind:Sound"}, "label": "label", "validation_is_clean": True},
        "model": {"hidden": [8]},
        "training": {"epochs": 8, "batch_size": 10, "checkpoints": 2},
        "verification": {"seeds": 0},
        "compute": {"workers": 1},
    }
    result = pipeline.audit(AuditConfig.model_validate(tree), tmp_path / "run")
    run = result.run.path
    assert read_json(run / "encoding.json")["input_shapes"] == {"sound": [24]}
    rows = pq.read_table(run / "rows.parquet").to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    assert np.mean([row["suspicion"] for row, bad in zip(train, wrong) if bad]) > np.mean(
        [row["suspicion"] for row, bad in zip(train, wrong) if not bad]
    )
    assert [place for place, row in enumerate(train) if "corrupted" in (row["reasons"] or [])] == SILENT
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert "24 samples, the loudest at 0.00" in page
    assert "No backdoors were searched for in clip" in (run / "record.json").read_text(encoding="utf-8")
