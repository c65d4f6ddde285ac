from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import own_encoder
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import AuditConfig
from pipeline.data.encoded import EncodedData
from pipeline.data.files import SourceFile, find_files, open_shard, open_shards
from pipeline.data.prepare import create_encoding, prepare, survey_rows
from pipeline.embedding import stage
from pipeline.embedding.trial import Trials
from pipeline.features.pretrained import embed, models, vectors
from pipeline.panel.feature_blocks import load_blocks, pieces, write_features
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text
from pipeline.workers.cluster import Workers

TEXTS = [f"{'good' if place % 2 else 'bad'} film {place % 50}" for place in range(300)]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditConfig:
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path))
    models.forget()
    vectors.open_vectors.cache_clear()
    own_encoder.seen.clear()
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": TEXTS, "y": [place % 2 for place in range(300)]}), path, row_group_size=120)
    data = {
        "train": str(path),
        "features": {"x": {"kind": "text", "encoder": "own_encoder:load"}},
        "label": "y",
    }
    tree = {"name": "n", "data": data, "compute": {"workers": 1, "device": "cpu"}}
    return AuditConfig.model_validate(tree)


def run_stage(config: AuditConfig, path: Path, said: list[Any]) -> np.ndarray:
    run = RunDirectory(path)
    write_text(run / "config.yaml", config.to_yaml())
    with Workers(config.compute) as workers:
        stage.prepare(AuditContext(config, run, workers, lambda *progress: said.append(progress)))
    return EncodedData.open(path).load_role("train").inputs.numpy()


def test_the_workers_compute_each_text_once_and_a_second_run_none(
    config: AuditConfig, tmp_path: Path
) -> None:
    said: list[Any] = []
    first = run_stage(config, tmp_path / "run", said)
    raw = own_encoder.hashed(TEXTS).astype(np.float64)
    std = raw.std(0)
    expected = np.where(std > 0, (raw - raw.mean(0)) / np.where(std > 0, std, 1), 0)
    np.testing.assert_allclose(first, expected, atol=1e-5)
    assert own_encoder.seen == []  # the client looked everything up
    assert said[0] == ("embed x", 0, 300, "rows")
    assert ("embed x", 300, 300, "rows") in said
    files = sorted((tmp_path / "encoders").rglob("*.arrow"))
    second = run_stage(config, tmp_path / "again", [])
    np.testing.assert_array_equal(second, first)
    assert sorted((tmp_path / "encoders").rglob("*.arrow")) == files


def test_pieces_cover_all_rows_once_and_join_small_row_groups(tmp_path: Path) -> None:
    shards = []
    for number, (rows, size) in enumerate([(3000, 3000), (700, 100), (0, 1), (5, 5)]):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"x": list(range(rows))}), path, row_group_size=size)
        shards.append(open_shard(number, SourceFile(str(path), "train")))
    found = stage.pieces(shards)
    for shard in shards:
        rows = []
        for piece in (each for each in found if each.path == shard.path):
            at = int(shard.group_starts[piece.groups[0]])
            rows += range(at + piece.first, at + piece.stop)
        assert rows == list(range(shard.rows))
    assert len(found) == 6 + 2 + 1
    assert max(piece.stop - piece.first for piece in found) == embed.BLOCK


def test_vectors_that_others_make_meanwhile_are_not_looked_at(tmp_path: Path) -> None:
    store = vectors.Vectors(tmp_path)
    keys = vectors.keys_of([b"a", b"b", b"c"])
    store.add(keys[:1], np.array([[1.0]], dtype=np.float32), time=10)
    store.add(keys[:2], np.array([[5.0], [2.0]], dtype=np.float32), time=20)
    found, known = store.find(keys, before=20)
    assert (found.tolist(), known.tolist()) == ([True, False, False], [[1.0]])
    found, known = store.find(keys[::-1])
    assert (found.tolist(), known.tolist()) == ([False, True, True], [[2.0], [1.0]])


def test_check_computes_a_few_rows_and_says_width_and_time(config: AuditConfig, tmp_path: Path) -> None:
    encoding = create_encoding(open_shards(find_files(config.data)), config)
    trials = Trials(encoding)
    context: Any = SimpleNamespace(
        config=config, run=RunDirectory(tmp_path / "run"), progress=lambda *_: None
    )
    survey_rows(open_shards(find_files(config.data)), encoding, context)
    assert len(own_encoder.seen) == 1 + embed.TRIAL_ROWS
    assert not list((tmp_path / "encoders").rglob("*.arrow"))
    (line,) = trials.lines()
    assert line.startswith(f"x: own_encoder:load, {own_encoder.WIDTH} numbers a row, ")
    assert line.endswith(" for 300 rows")
    assert trials.seconds() > 0


def test_the_panel_sees_the_numbers_and_the_words(config: AuditConfig, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    write_text(run / "config.yaml", config.to_yaml())
    context: Any = SimpleNamespace(config=config, run=run, progress=lambda *_: None)
    prepare(context)
    (piece,) = found = pieces(EncodedData.open(run.path), "train")
    write_features(run.path, found)
    blocks = load_blocks(run.path, piece)
    assert (set(blocks.texts), set(blocks.wide)) == ({"x/words", "x/characters"}, {"x/list"})
    assert blocks.wide["x/list"].shape == (300, own_encoder.WIDTH)


def test_other_weights_prepare_the_rows_again(config: AuditConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.stages.stages import fingerprints

    before = fingerprints(config)["prepare"]
    models.identity.cache_clear()
    assert fingerprints(config)["prepare"] == before
    monkeypatch.setattr(own_encoder.load, "version", 2, raising=False)
    models.identity.cache_clear()
    assert fingerprints(config)["prepare"] != before
