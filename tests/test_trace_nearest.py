"""The nearest rows of a trace, beside those with influence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from digits_run import ROOT, run_until
from sklearn.feature_extraction.text import TfidfVectorizer
from test_trace import queries_file, traced

from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.config import load_config
from pipeline.data.catalog import catalog_tables
from pipeline.features.words import WORD
from pipeline.models.features import penultimate_features
from pipeline.scoring.plan import ScoringPlan, attribution_model
from pipeline.trace.nearest import agreements
from pipeline.trace.trace import Trace
from pipeline.workers.kept import drop_kept
from pipeline.workers.worker import run_data

SMS = ROOT / "data_samples/sms_spam"


def keys_of(run_path: Path) -> list[str]:
    return pa.concat_tables(catalog_tables(run_path, "train", ["row_key"]))["row_key"].to_pylist()


def check_nearest(found: Trace, keys: list[str], measure: str, cosines: np.ndarray) -> None:
    """The rows by one measure are those with the largest cosines `[queries, rows]`."""
    for query, mine in enumerate(cosines):
        lines = found.nearest.table.filter((pc.field("query") == query) & (pc.field("measure") == measure))
        said = lines["similarity"].to_numpy()
        best = -np.sort(-mine)[: len(said)]
        assert len(said) == min(5, (mine > 1e-9).sum())
        # two words may have the same hash
        assert np.allclose(said, best, atol=1e-3)
        assert np.allclose(said, mine[[keys.index(key) for key in lines["row_key"].to_pylist()]], atol=1e-3)


def test_the_nearest_by_features_are_those_of_a_dense_computation(detected_run: Path, tmp_path: Path) -> None:
    drop_kept()
    found = traced(detected_run, queries_file(tmp_path), tmp_path / "trace")
    model = attribution_model(detected_run)
    restore_weights(model, ScoringPlan("whole", detected_run, 1).query_weights())
    rows = run_data(detected_run).load_role("train").inputs
    mine, asked = (
        torch.nn.functional.normalize(penultimate_features(model, inputs), dim=1).numpy()
        for inputs in (rows, torch.from_numpy(found.queries.inputs["image"]))
    )
    check_nearest(found, keys_of(detected_run), "representation", asked @ mine.T)
    strongest = {(line["query"], line["row_key"]): line["influence"] for line in found.table.to_pylist()}
    both = [
        (line["influence"], strongest[line["query"], line["row_key"]])
        for line in found.nearest.table.to_pylist()
        if (line["query"], line["row_key"]) in strongest
    ]
    assert both
    assert all(one == other for one, other in both)
    assert list(found.nearest.agreements) == ["representation"]


def shares_by_sets(found: Trace, measure: str) -> list[float]:
    shares = []
    for query in range(len(found.queries)):
        strong = sorted(
            (line for line in found.table.to_pylist() if line["query"] == query),
            key=lambda line: -abs(line["influence"]),
        )
        near = [
            line["row_key"]
            for line in found.nearest.table.to_pylist()
            if line["query"] == query and line["measure"] == measure
        ]
        most = min(5, len(near))
        shares.append(len({line["row_key"] for line in strong[:most]} & set(near[:most])) / most)
    return shares


def test_texts_are_compared_by_their_words_too(tmp_path: Path) -> None:
    drop_kept()
    for role, rows in (("train", 120), ("validation", 40), ("holdout", 40)):
        pq.write_table(pq.read_table(SMS / role).slice(0, rows), tmp_path / f"{role}.parquet")
    queries = tmp_path / "asked.parquet"
    pq.write_table(pq.read_table(SMS / "holdout").slice(40, 4), queries)
    data = {f"data.{role}": str(tmp_path / f"{role}.parquet") for role in ("train", "validation", "holdout")}
    small = {"training.epochs": 2, "training.checkpoints": 2, "detection.halves": False}
    config = load_config(ROOT / "configs/sms_spam.yaml", data | small | {"compute.chunk_rows": 50})
    run_until(config, tmp_path / "run", "attribute")
    found = traced(tmp_path / "run", queries, tmp_path / "trace")

    texts, asked = (pq.read_table(path)["text"].to_pylist() for path in (tmp_path / "train.parquet", queries))
    every = sorted({word for text in texts + asked for word in WORD.findall(text.lower())})
    tfidf = TfidfVectorizer(sublinear_tf=True, token_pattern=WORD.pattern, vocabulary=every).fit(texts)
    cosines = (tfidf.transform(asked) @ tfidf.transform(texts).T).toarray()
    check_nearest(found, keys_of(tmp_path / "run"), "words", cosines)
    for measure in ("words", "representation"):
        agreement = found.nearest.agreements[measure]
        assert agreement.shares.tolist() == pytest.approx(shares_by_sets(found, measure))
        assert agreement.by_chance == 5 / 120

    (tmp_path / "train.parquet").unlink()
    again = traced(tmp_path / "run", queries, tmp_path / "trace-again")
    assert list(again.nearest.agreements) == ["representation"]
    assert "train.parquet can't be read any more" in again.nearest.said()[0]


def test_lists_agree_in_the_share_of_rows_that_both_have() -> None:
    places = np.array([[[3, 8, 5]], [[1, -1, -1]]])
    influence = np.array([[[0.5, 0.2, 0.1]], [[-0.3, 0.0, 0.0]]])
    found = {"places": places, "influence": influence, "row_ids": places}
    near = {"places": np.array([[[1, 3, 5]], [[8, 3, -1]], [[-1, -1, -1]]])}
    said = agreements(found, near, ["a", "b", "c"], 30)
    # the strongest are 3, 1, 8, 5
    assert said["a"].mean == pytest.approx(2 / 3)
    assert said["b"].mean == pytest.approx(1 / 2)
    assert said["c"].mean is None
    assert said["a"].by_chance == pytest.approx(0.1)
