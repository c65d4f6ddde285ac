"""Banks of a small task: what `winnow lds --bank` reads is what the benchmark measured; and those that are shipped."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from benchmarks.lds import banks, predictions, truth
from benchmarks.lds.bases import Base
from benchmarks.lds.models import mlp
from benchmarks.lds.rows import Data, Origin, digits
from benchmarks.lds.tasks import Recipe, Removal, Task
from pipeline import read_bank, score_bank
from pipeline.verification.lds import lds_score, predicted_change

SHIPPED = sorted(banks.FOLDER.glob("*.safetensors"))
MOST_BYTES = 5_000_000


def small_data() -> Data:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(44, 3, generator=random)
    labels = (inputs[:, 0] > 0).long()
    origin = Origin("of this test", ("x",), inputs[:32].numpy(), np.arange(32), np.arange(32, 44))
    return Data(inputs[:32], labels[:32], inputs[32:], labels[32:], np.zeros(32, dtype=np.int64), origin)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setattr(truth, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(banks, "FOLDER", tmp_path / "banks")
    recipe = Recipe((4,), (0.1,), 1e-2, 5, at_once=3)
    task = Task(lambda _: small_data(), None, partial(mlp, 3, 4, 2), recipe, {0.5: Removal(6, 2)})
    return Base("small", task, small_data(), 0)


def test_a_bank_has_the_retrainings_and_what_methods_reached(base: Base) -> None:
    assert banks.write_bank(base.name, base.task, base.data) is None
    truth.measure_truth(base.name, base.task, base.data, 0.5)
    scores = {
        kind: predictions.scores(base, "graddot", kind, "final") for kind in ("margins", "validation_loss")
    }
    path = banks.write_bank(base.name, base.task, base.data)
    assert path is not None
    found = read_bank(path)
    measured = truth.read_truth(base.name, base.task, 0.5)
    np.testing.assert_allclose(found.questions["margins_tail"].truth, measured["margins_tail"], rtol=1e-6)
    found.check_rows(base.data.inputs[:32].numpy())
    assert np.array_equal(found.removed.sum(1), np.full(6, 16))
    for kind, sign in (("margins", -1), ("validation_loss", 1)):
        given = scores[kind]
        assert given is not None
        question = found.questions[f"{kind}_final"]
        key = "margins_final" if kind == "margins" else "loss_final"
        expected = lds_score(measured[key].reshape(6, 2, -1).mean(1), predicted_change(given, found.removed))
        assert question.published["graddot @final"].value == pytest.approx(expected.value, abs=1e-6)
        # A score of the command is higher where the row helps.
        again = score_bank(found, sign * given.T)[f"{kind}_final"]
        assert again.value == pytest.approx(expected.value, abs=1e-6)


def test_another_recipe_or_model_has_another_code(base: Base) -> None:
    other = [
        replace(base.task, recipe=replace(base.task.recipe, momentum=0.5)),
        replace(base.task, build=partial(mlp, 3, 5, 2)),
    ]
    assert len({banks.code_of(task) for task in (base.task, *other)}) == 3
    assert banks.code_of(replace(base.task, base_models=1)) == banks.code_of(base.task)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_banks_are_small_and_whole(path: Path) -> None:
    assert path.stat().st_size <= MOST_BYTES
    found = read_bank(path)
    assert found.task == path.stem
    for question in found.questions.values():
        assert question.ceiling is not None
        assert question.published


def test_the_shipped_bank_of_digits_has_the_rows_of_scikit_learn() -> None:
    found = read_bank(banks.FOLDER / "digits.safetensors")
    loaded = load_digits()
    found.check_rows(loaded.data[found.row_places])
    assert np.array_equal(found.row_labels, loaded.target[found.row_places])
    assert np.array_equal(found.query_labels, loaded.target[found.query_places])
    data = digits(Path())
    masks = [truth.removed_rows(data.stages, banks.SHARE, mask) for mask in range(len(found.removed))]
    assert np.array_equal(found.removed, masks)
