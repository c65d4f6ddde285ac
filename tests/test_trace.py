from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from digits_run import digits_config, run_until

from benchmarks.inline import Inline
from pipeline.attribution.curvature.segments import query_filters
from pipeline.attribution.front_door import attribute
from pipeline.attribution.methods import refined_form
from pipeline.attribution.queries.gradients import query_gradients
from pipeline.attribution.rows.stages import StageData
from pipeline.attribution.scores.rows import score_rows
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.config import load_config
from pipeline.data.catalog import catalog_tables
from pipeline.data.encode import Encoding
from pipeline.errors import InputError
from pipeline.models.features import penultimate_features
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text
from pipeline.scoring.plan import ScoringPlan, TrainPairs, attribution_model, batches
from pipeline.scoring.refine import refined_settings
from pipeline.trace.queries import read_queries
from pipeline.trace.refined import check_refined
from pipeline.trace.strongest import merge, strongest
from pipeline.trace.trace import Trace, check_kept, trace, write_trace
from pipeline.training.main_run import whole_trajectory
from pipeline.workers.kept import drop_kept
from pipeline.workers.worker import plain_objective, run_data, run_objective

HOLDOUT = Path(__file__).parents[1] / "data_samples/digits/holdout"
VOID = {"meta", "img", "br", "link", "input", "hr"}


def queries_file(folder: Path, rows: int = 6, drop: str | None = None) -> Path:
    table = pq.read_table(HOLDOUT).slice(0, rows)
    path = folder / "asked.parquet"
    pq.write_table(table.drop_columns([drop]) if drop else table, path)
    return path


def traced(run_path: Path, queries: Path, folder: Path, top: int = 5, refined: bool = False) -> Trace:
    """A trace in this process."""
    config = load_config(run_path / "config.yaml")
    context = AuditContext(config, RunDirectory(run_path), Inline(config.compute))
    encoding = run_data(run_path).encoding
    asked = read_queries(queries, encoding, config.data)
    made = write_trace(context, asked, top, backdoor=False, refined=refined, folder=folder)
    return Trace(folder, encoding, asked, *made, refined)


def dense_influences(run_path: Path, inputs: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """τ `[queries, train rows]` with dense filters, the chunks one after the other."""
    plan = ScoringPlan("whole", run_path, load_config(run_path / "config.yaml").attribution.segments)
    model, objective = attribution_model(run_path), run_objective(run_path)
    restore_weights(model, plan.query_weights())
    gradients = query_gradients(model, objective, inputs, labels)
    exact = {name: each.double() for name, each in gradients.items()}
    filters = query_filters(exact, plan.prepared_segments())
    parts = [
        score_rows(
            model,
            lambda checkpoint: plan.load_checkpoint(model, checkpoint),
            objective,
            list(batches(run_path, chunk)),
            plan.prepared_segments(),
            plan.trajectory().train_rows,
            {"queries": filters},
            self_influence=False,
        ).harm["queries"]
        for chunk in run_data(run_path).chunks("train")
    ]
    return -plan.scale() * torch.cat(parts, 1).numpy()


@pytest.fixture
def found(detected_run: Path, tmp_path: Path) -> Trace:
    drop_kept()
    return traced(detected_run, queries_file(tmp_path), tmp_path / "trace")


def check_against_dense(run_path: Path, found: Trace) -> None:
    inputs = torch.from_numpy(found.queries.inputs["image"])
    dense = dense_influences(run_path, inputs, torch.from_numpy(found.answers.labels))
    keys = pa.concat_tables(catalog_tables(run_path, "train", ["row_key"]))["row_key"].to_pylist()
    for query, values in enumerate(dense):
        largest = np.abs(values).max()
        for direction, sign in (("for", 1), ("against", -1)):
            mine = found.table.filter((pc.field("query") == query) & (pc.field("direction") == direction))
            assert mine["rank"].to_pylist() == list(range(1, mine.num_rows + 1))
            there = [keys.index(key) for key in mine["row_key"].to_pylist()]
            influence = mine["influence"].to_numpy()
            assert np.abs(influence - values[there]).max() < 0.02 * largest
            best = -sign * np.sort(-sign * values)[: mine.num_rows]
            assert np.abs(influence - best).max() < 0.02 * largest


def test_rows_and_influences_are_those_of_a_dense_computation(detected_run: Path, found: Trace) -> None:
    check_against_dense(detected_run, found)


def test_a_run_that_adamw_trained_is_traced_in_its_own_coordinates(tmp_path: Path) -> None:
    drop_kept()
    changes = {"training__optimizer": "adamw", "training__learning_rate": 0.003, "attribution__segments": 3}
    run_until(digits_config(**changes, detection__halves=False), tmp_path / "run", "attribute")
    check_against_dense(
        tmp_path / "run", traced(tmp_path / "run", queries_file(tmp_path), tmp_path / "trace")
    )


ADAMW = {"training__optimizer": "adamw", "training__learning_rate": 0.003}
FEWER = {"attribution__refined_rows": 200, "attribution__refined_iterations": 4}


THREE = {"attribution__segments": 3}


@pytest.mark.parametrize(
    ("changes", "refined"),
    [
        ({}, True),
        ({"attribution__method": "source_refined"} | ADAMW | FEWER, True),
        (THREE, True),
        ({"attribution__method": "source_refined"} | THREE | ADAMW | FEWER, True),
        ({"attribution__method": "tracin"}, False),
        ({"attribution__method": "graddot"}, False),
    ],
    ids=["sgd", "adamw", "three segments", "three segments of adamw", "tracin", "graddot"],
)
def test_influences_are_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], refined: bool
) -> None:
    monkeypatch.setattr("pipeline.trace.refined.SOLVED_TOGETHER", 4)  # six queries in two solves
    drop_kept()
    path = tmp_path / "run"
    # Drawn labels go by row ids, which one process counts otherwise.
    config = digits_config(
        attribution__fisher="exact", training__epochs=3, detection__halves=False, **changes
    )
    run_until(config, path, "attribute")
    data = run_data(path)
    assert len(data.chunks("train")) > 1
    rows = data.count("train")
    found = traced(path, queries_file(tmp_path), tmp_path / "trace", top=rows, refined=refined)
    method = refined_form(config.attribution.method) if refined else config.attribution.method
    assert method is not None
    inputs, labels = torch.from_numpy(found.queries.inputs["image"]), torch.from_numpy(found.answers.labels)
    whole = attribute(
        attribution_model(path),
        Trajectory.load(whole_trajectory(path)),
        [StageData(TrainPairs(path), loss=run_objective(path))],
        [(inputs, labels)],
        loss=plain_objective(path),
        method=method,
        segments=config.attribution.segments,
        reduce_queries=False,
        query_tolerance=0,
        fisher="exact",
        seed=config.attribution.seed,
        refined=refined_settings(config.attribution) if refined else None,
    ).influence
    assert whole is not None
    keys = pa.concat_tables(catalog_tables(path, "train", ["row_key"]))["row_key"].to_pylist()
    places = {key: place for place, key in enumerate(keys)}
    mine = np.zeros((6, rows))
    for line in found.table.select(["query", "row_key", "influence"]).to_pylist():
        mine[line["query"], places[line["row_key"]]] = line["influence"]
    for query, values in enumerate(whole.numpy()):
        assert np.abs(mine[query] - values).max() < 0.02 * np.abs(values).max()


@pytest.mark.parametrize("method", ["source", "source_refined"])
def test_the_method_of_the_run_decides_unless_it_is_said(
    detected_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    drop_kept()
    monkeypatch.setattr("pipeline.trace.trace.Workers", Inline)
    write_text(detected_run / "config.yaml", digits_config(attribution__method=method).to_yaml())
    queries, by_default = queries_file(tmp_path, rows=2), method == "source_refined"
    found, said, other = (
        trace(detected_run, queries, refined=refined, output=tmp_path / f"{refined}")
        for refined in (None, by_default, not by_default)
    )
    assert (found.refined, said.refined, other.refined) == (by_default, by_default, not by_default)
    assert found.table.equals(said.table)
    assert not found.table.equals(other.table)
    for each in (found, other):
        assert ("true Gauss–Newton matrix" in each.page.read_text()) == each.refined


def test_rows_carry_their_facts_and_similarities(detected_run: Path, found: Trace) -> None:
    rows = {row["row_key"]: row for row in pq.read_table(detected_run / "rows.parquet").to_pylist()}
    model, plan = attribution_model(detected_run), ScoringPlan("whole", detected_run, 1)
    restore_weights(model, plan.query_weights())
    asked = penultimate_features(model, torch.from_numpy(found.queries.inputs["image"])).numpy()
    train = run_data(detected_run).load_role("train")
    features = penultimate_features(model, train.inputs).numpy()
    keys = list(rows)
    for line in found.table.to_pylist():
        assert {name: line[name] for name in ("label", "decision", "shard", "row")} == {
            name: rows[line["row_key"]][name] for name in ("label", "decision", "shard", "row")
        }
        one, other = asked[line["query"]], features[keys.index(line["row_key"])]
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert line["representation_similarity"] == pytest.approx(cosine, abs=1e-4)
        assert (line["influence"] > 0) == (line["direction"] == "for")


def test_without_labels_a_query_asks_for_the_prediction(
    detected_run: Path, found: Trace, tmp_path: Path
) -> None:
    blind = traced(detected_run, queries_file(tmp_path, drop="label"), tmp_path / "blind")
    assert not blind.answers.given
    assert blind.answers.labels.tolist() == found.answers.predictions.tolist()
    right = np.flatnonzero(found.answers.predictions == found.answers.labels)
    assert len(right)
    for query in right:
        mine = pc.field("query") == int(query)
        assert blind.table.filter(mine).equals(found.table.filter(mine))


def test_chunks_don_t_change_the_result(detected_run: Path, found: Trace, tmp_path: Path) -> None:
    again = traced(detected_run, queries_file(tmp_path), tmp_path / "again")
    assert again.table.equals(found.table)


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith(("data:", "#")):
                self.loads.append(value or "")
            self.pictures += name == "src"
        assert tag not in ("script", "link", "iframe", "object")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(found: Trace) -> None:
    text = found.page.read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert page.pictures >= 6
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import", text)
    for key in found.queries.keys:
        assert f"<h3>{key}</h3>" in text


def test_the_first_queries_are_shown_and_the_rest_is_in_the_table(
    detected_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.trace.page.MOST_QUERIES", 2)
    found = traced(detected_run, queries_file(tmp_path), tmp_path / "trace")
    text = found.page.read_text()
    assert "4 more queries are in influences.parquet only" in text
    assert text.count('class="asked"') == 2
    assert set(found.table["query"].to_pylist()) == set(range(6))


def test_the_strongest_are_those_of_a_sort_and_equals_go_by_row_id() -> None:
    random = np.random.RandomState(0)
    influence = random.randint(-4, 5, (3, 40)).astype(np.float64)
    ids = random.permutation(1000)[:40]
    places = strongest(influence, ids, 6)
    for query, values in enumerate(influence):
        order = sorted(range(40), key=lambda row, values=values: (-values[row], ids[row]))
        assert places[0, query].tolist() == [row for row in order if values[row] > 0][:6]
        order = sorted(range(40), key=lambda row, values=values: (values[row], ids[row]))
        assert places[1, query].tolist() == [row for row in order if values[row] < 0][:6]


def test_merging_chunks_equals_one_chunk() -> None:
    random = np.random.RandomState(1)
    influence, ids = random.randint(-3, 4, (4, 30)).astype(np.float64), random.permutation(30)

    def table(rows: slice) -> dict[str, np.ndarray]:
        places = strongest(influence[:, rows], ids[rows], 7)
        there, query = places >= 0, np.arange(4)[None, :, None]
        return {
            "places": np.where(there, places + rows.start, -1),
            "row_ids": ids[rows][places],
            "influence": np.where(there, influence[:, rows][query, places], 0.0),
        }

    whole = table(slice(0, 30))
    for cuts in ((0, 13, 30), (0, 3, 7, 30)):
        parts = [table(slice(a, b)) for a, b in pairwise(cuts)]
        merged = parts[-1]
        for part in parts[:-1][::-1]:
            merged = merge(merged, part, 7)
        assert np.array_equal(merged["places"], whole["places"])
        assert np.array_equal(merged["influence"], whole["influence"])


class TestWrongInput:
    def read(self, run: Path, path: Path) -> None:
        read_queries(path, Encoding.load(run / "encoding.json"), load_config(run / "config.yaml").data)

    def test_no_file(self, detected_run: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such file"):
            self.read(detected_run, tmp_path / "nothing.parquet")

    def test_a_missing_column(self, detected_run: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no column 'image'"):
            self.read(detected_run, queries_file(tmp_path, drop="image"))

    def test_no_rows(self, detected_run: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no rows"):
            self.read(detected_run, queries_file(tmp_path, rows=0))

    @pytest.mark.parametrize(
        ("labels", "said"),
        [
            (pa.array([11, 1]), "label 11 is none of the classes"),
            (pa.array([None, 1]), "row 0: label 'label' is null"),
            (pa.array(["cat", "1"]), "column 'label' can't be encoded"),
        ],
    )
    def test_labels_that_the_run_does_not_know(
        self, detected_run: Path, tmp_path: Path, labels: pa.Array, said: str
    ) -> None:
        path = queries_file(tmp_path, rows=2)
        table = pq.read_table(path)
        pq.write_table(table.set_column(1, "label", labels), path)
        with pytest.raises(InputError, match=said):
            self.read(detected_run, path)

    def test_images_of_another_shape_and_type(self, detected_run: Path, tmp_path: Path) -> None:
        path = tmp_path / "asked.parquet"
        wide = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * 81, np.uint8)), 81)
        pq.write_table(pa.table({"image": wide}), path)
        with pytest.raises(InputError, match="has 81 pixels, the run's images have 8 × 8"):
            self.read(detected_run, path)
        pq.write_table(pa.table({"image": ["a", "b"]}), path)
        with pytest.raises(InputError, match="column 'image' is string"):
            self.read(detected_run, path)

    def test_a_run_that_has_not_come_far_enough(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="not a run directory"):
            trace(tmp_path, queries_file(tmp_path))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"attribution__method": "fast_source"}, "attribution.method of the run is fast_source"),
            ({"attribution__method": "influence"}, "attribution.method of the run is influence"),
        ],
    )
    def test_a_refined_trace_of_a_run_without_a_refined_form(
        self, detected_run: Path, changes: dict[str, object], said: str
    ) -> None:
        with pytest.raises(InputError, match=said):
            check_refined(detected_run, digits_config(**changes).attribution)

    def test_a_run_by_a_method_without_influence_on_single_queries(
        self, detected_run: Path, tmp_path: Path
    ) -> None:
        write_text(detected_run / "config.yaml", digits_config(attribution__method="trak").to_yaml())
        with pytest.raises(InputError, match="is trak, which has no influence on single queries"):
            trace(detected_run, queries_file(tmp_path))

    def test_a_refined_trace_of_training_that_stood_still(
        self, detected_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (moved,) = ScoringPlan("whole", detected_run, 1).planned()
        monkeypatch.setattr(ScoringPlan, "planned", lambda self: [replace(moved, damping=None)])
        with pytest.raises(InputError, match="learning rates above 0"):
            check_refined(detected_run, digits_config().attribution)

    @pytest.mark.parametrize(
        "gone", ["factors/segment-0.safetensors", "encoded/chunks.json", "encoding.json"]
    )
    def test_parts_of_the_run_that_were_deleted(self, detected_run: Path, gone: str) -> None:
        (detected_run / gone).unlink()
        with pytest.raises(InputError, match=f"{gone}: not there any more"):
            check_kept(RunDirectory(detected_run), load_config(detected_run / "config.yaml"))

    def test_checkpoints_that_were_deleted(self, detected_run: Path) -> None:
        plan = ScoringPlan("whole", detected_run, 1)
        plan.trajectory().checkpoints[0].path.unlink()
        with pytest.raises(InputError, match="not there any more"):
            check_kept(RunDirectory(detected_run), load_config(detected_run / "config.yaml"))

    def test_an_output_that_holds_something_else(self, detected_run: Path, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/letter.txt").write_text("Dear")
        with pytest.raises(InputError, match="not empty, and not an earlier trace"):
            trace(detected_run, queries_file(tmp_path), output=tmp_path / "mine")
        assert (tmp_path / "mine/letter.txt").read_text() == "Dear"
