"""The user's own embeddings and probabilities as judges of the panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from pipeline.panel.opinions import panel_margin

from .small import Judged, judge

COUNTS = {"train": 300, "validation": 60, "holdout": 60}
CENTRES = np.array([[2.0, 0, 0, 1], [0, 2, 0, 1], [0, 0, 2, 1]])
FEW = {"panel_folds": 3}


def tables(seed: int = 0) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """A feature that tells nothing, embeddings and probabilities that tell three classes apart, and what is wrong."""
    found, wrong = {}, {}
    for place, (role, rows) in enumerate(COUNTS.items()):
        random = np.random.RandomState(seed + place)
        truth = random.randint(0, 3, rows)
        bad = random.rand(rows) < 0.1
        given = np.where(bad, (truth + random.randint(1, 3, rows)) % 3, truth)
        logits = 3 * np.eye(3)[truth] + random.normal(size=(rows, 3))
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        vectors = CENTRES[truth] + random.normal(0, 0.5, (rows, 4))
        found[role] = {
            "noise": [" ".join(words) for words in random.choice(["a", "b", "c", "d"], (rows, 3))],
            "label": given,
            "vector": list(vectors),
            "chances": list(chances),
        }
        wrong[role] = bad
    return found, wrong


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return judge(
        tmp_path_factory.mktemp("own"),
        tables()[0],
        {"noise": "text"},
        FEW,
        embeddings="vector",
        pred_probs="chances",
    )


def test_they_outweigh_judges_that_see_a_feature_without_a_word(found: Judged) -> None:
    judges = {each.name: each for each in found.panel.judges}
    own = ["own_linear", "own_neighbours", "own_probabilities"]
    assert list(judges) == ["linear", "naive_bayes", *own]
    assert [name for name in judges if judges[name].counts] == own
    assert found.facts["evidence"] == {
        "embeddings": {"width": 4, "unused": 0},
        "pred_probs": {"width": 3, "unused": 0},
    }
    assert not (found.path / "panel/work").exists()


@pytest.mark.parametrize("name", ["own_linear", "own_neighbours", "own_probabilities", "mean"])
@pytest.mark.parametrize("role", COUNTS)
def test_each_finds_wrong_labels_of_every_role(found: Judged, name: str, role: str) -> None:
    margin = panel_margin(np.array(found.panel.of(name, role)), found.labels(role))
    assert average_precision_score(tables()[1][role], -margin) > 0.7


def test_probabilities_are_only_calibrated(found: Judged) -> None:
    """By one temperature: logarithms of ratios of two classes are scaled by one number, which all rows share."""
    said = np.array(tables()[0]["holdout"]["chances"])
    heard = np.array(found.panel.of("own_probabilities", "holdout"), dtype=np.float64)
    before, after = (np.log(each[:, 0] / each[:, 1]) for each in (0.999 * said + 0.001 / 3, heard))
    np.testing.assert_allclose(before / after, np.median(before / after), rtol=1e-3)


def test_nothing_about_train_rows_reads_other_roles(found: Judged, tmp_path: Path) -> None:
    changed = tables()[0]
    for role in ("validation", "holdout"):
        changed[role]["label"] = changed[role]["label"][::-1].copy()
        changed[role]["chances"] = changed[role]["chances"][::-1]
        changed[role]["vector"] = changed[role]["vector"][::-1]
    other = judge(tmp_path, changed, {"noise": "text"}, FEW, embeddings="vector", pred_probs="chances")
    for name in ("own_linear", "own_neighbours", "own_probabilities", "mean"):
        np.testing.assert_array_equal(found.panel.of(name, "train"), other.panel.of(name, "train"))


def test_embeddings_judge_numbers_and_sets_too(tmp_path: Path) -> None:
    changed = tables()[0]
    for table in changed.values():
        table["label"] = np.array(table["vector"])[:, 0]
    numbers = judge(tmp_path / "numbers", changed, {"noise": "text"}, FEW, embeddings="vector")
    errors = {each.name: each.error or 0 for each in numbers.panel.judges}
    assert errors["own_linear"] < errors["linear"] / 2
    for table in changed.values():
        table["label"] = [["big"] if value[0] > 1 else [] for value in table["vector"]]
    sets = judge(tmp_path / "sets", changed, {"noise": "text"}, FEW, embeddings="vector")
    losses = {each.name: each.log_loss or 0 for each in sets.panel.judges}
    assert losses["own_linear"] < losses["linear"] / 2


def test_blind_judges_do_not_see_them(tmp_path: Path) -> None:
    changed = tables()[0]
    for table in changed.values():
        table["source"] = np.where(np.arange(len(table["label"])) % 2, "a", "b")
    features = {"noise": "text", "source": "category"}
    blind = judge(tmp_path, changed, features, FEW, embeddings="vector", pred_probs="chances", group="source")
    blind_folders = sorted(path.name for path in (blind.path / "panel").glob("*-blind"))
    assert blind_folders == ["linear-blind", "mean-blind", "naive_bayes-blind"]
