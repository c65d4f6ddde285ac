"""The speed benchmark's models, its turns and its arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.models import MODELS, batches, fashion_mnist, train
from benchmarks.speed import Sizes, scaling_rows
from benchmarks.timing import ratios, relative, seconds_rows, summary, turns
from pipeline.attribution import coverage

SAMPLES = Path(__file__).parents[2] / "data_samples"


@pytest.mark.parametrize("kind", ["mlp", "convnet", "transformer"])
def test_models_take_the_pixels_and_are_covered(kind: str) -> None:
    model = MODELS[kind]()
    assert model(torch.randn(2, 784)).shape == (2, 10)
    assert coverage(model).share > 0.98


def test_training_keeps_equally_many_checkpoints_that_differ() -> None:
    pixels, labels = fashion_mnist(SAMPLES, "train")
    run = train(MODELS["mlp"](), pixels[:200], labels[:200], steps=4, checkpoints=2)
    assert len(run.states) == 2
    assert run.lr_sums == pytest.approx([0.4, 0.4])
    assert not torch.equal(run.states[0]["0.weight"], run.states[1]["0.weight"])
    run.load(0)
    assert torch.equal(run.model.state_dict()["0.weight"], run.states[0]["0.weight"])


def test_batches_number_the_rows() -> None:
    parts = batches(torch.randn(5, 3), torch.arange(5), 2)
    assert [part.row_ids.tolist() for part in parts] == [[0, 1], [2, 3], [4]]


def test_work_is_done_in_turns_and_the_first_turn_not_counted() -> None:
    order: list[str] = []
    seconds, found = turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3
    assert [len(pairs) for pairs in seconds.values()] == [2, 2]
    assert found == {"a": None, "b": None}


def test_rows_have_the_median_and_the_spread_of_cpu_and_wall_seconds() -> None:
    rows = seconds_rows("task", {"winnow": [(1.0, 2.0), (3.0, 4.0), (2.0, 9.0)]}, {"rows": 7})
    assert [(row["metric"], row["value"], row["low"], row["high"], row["n"]) for row in rows] == [
        ("seconds", 2.0, 1.0, 3.0, 3),
        ("wall_seconds", 4.0, 2.0, 9.0, 3),
    ]
    assert all(row["rows"] == 7 and row["task"] == "task" for row in rows)


def test_ratios_pair_turns_and_differences_are_relative_to_the_largest_score() -> None:
    assert ratios([(4.0, 0.0), (9.0, 0.0)], [(2.0, 0.0), (3.0, 0.0)]) == [2.0, 3.0]
    assert summary([2.0, 3.0, 7.0]) == {"value": 3.0, "low": 2.0, "high": 7.0, "n": 3}
    assert relative(torch.tensor([1.0, 10.5]), torch.tensor([1.0, 10.0])) == pytest.approx(0.05)


def test_a_scaling_task_reports_seconds_and_the_cost_per_row() -> None:
    sizes = Sizes(1, {}, {}, {}, scaling_rows=(50, 100), scaling_width=())
    rows = scaling_rows(SAMPLES, sizes)
    assert [(row["rows"], row["metric"]) for row in rows] == [
        (50, "seconds"),
        (50, "ratio"),
        (100, "seconds"),
        (100, "ratio"),
    ]
    assert rows[1]["value"] == 1.0
    assert all(row["value"] > 0 for row in rows)
