"""Evidence of the user's own in the ranking: its signals, its weight, and probabilities that look in-sample."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from panel.small import Judged, config, judge, texts
from scipy.stats import entropy

from pipeline.detection.in_sample import looks_in_sample
from pipeline.detection.judges.class_judges import Judges, collect_judges
from pipeline.detection.signals.weights import OWN_WEIGHT
from pipeline.detection.suspicion import SignalValues, doubt_like_train, suspicion
from pipeline.detection.weighing.by_panel import signals_of_classes
from pipeline.runs.directory import RunDirectory

ROWS = {"train": 400, "validation": 80}


def chances(role: str, in_sample: bool) -> np.ndarray:
    """What a good model says that has seen the labels of the rows, or one that has not, float64 `[rows, 3]`."""
    table, wrong = texts(ROWS[role], list(ROWS).index(role), 0.2)
    given, random = np.array(table["label"]), np.random.RandomState(5)
    likely = given.copy()
    if not in_sample:  # it is as often wrong as labels are, on other rows
        truth = np.array(
            [next(k for k, w in enumerate(WORDS) if set(w) & set(s.split())) for s in table["text"]]
        )
        miss = random.rand(len(given)) < 0.1
        likely = np.where(miss, (truth + 1) % 3, truth)
        assert (likely != given)[wrong].mean() > 0.8
    found = np.full((len(given), 3), 0.05)
    found[np.arange(len(given)), likely] = 0.9
    return found


WORDS = [
    ("match", "goal", "team", "player", "league"),
    ("market", "bank", "profit", "shares", "trade"),
    ("film", "actor", "scene", "director", "music"),
]


@pytest.fixture(scope="module", params=[False, True], ids=["out of sample", "in-sample"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Judged, Judges, bool]:
    tables: dict[str, Any] = {
        role: texts(rows, place, 0.2)[0] | {"chances": list(chances(role, request.param))}
        for place, (role, rows) in enumerate(ROWS.items())
    }
    found = judge(
        tmp_path_factory.mktemp("own"), tables, {"text": "text"}, {"panel_folds": 3}, pred_probs="chances"
    )
    settings = config({"text": "text"}, {"halves": False}, train="x", pred_probs="chances")
    context: Any = SimpleNamespace(run=RunDirectory(found.path), config=settings)
    judges = collect_judges(context, found.labels(), 1)
    assert judges is not None
    return found, judges, request.param


def test_probabilities_of_a_model_that_has_seen_the_labels_are_told(
    case: tuple[Judged, Judges, bool],
) -> None:
    found, judges, in_sample = case
    assert looks_in_sample(judges, found.labels(), 0) == in_sample
    rest = judges.without_own_probabilities()
    assert rest.in_sample
    assert rest.own_share == 0
    assert [each.name for each in rest.counting] == ["linear", "naive_bayes"]
    weights = {each.name: each.weight for each in rest.panel.judges}
    logs = sum(w * np.log(np.array(found.panel.of(name, "train"), np.float64)) for name, w in weights.items())
    mean = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    np.testing.assert_allclose(rest.panel.mean("train"), mean, atol=1e-5)


def test_signals_say_what_the_probabilities_say(case: tuple[Judged, Judges, bool]) -> None:
    found, judges, _ = case
    for role in ROWS:
        given, said = found.labels(role), np.array(found.panel.of("own_probabilities", role))
        together, wrong = judges.together(role), np.linspace(0, 1, ROWS[role])
        signals = {each.name: each for each in signals_of_classes(judges, role, given, together, wrong)}
        own = np.array([row[label] for row, label in zip(said, given)])
        np.testing.assert_allclose(signals["own_confidence"].values, own)
        np.testing.assert_allclose(signals["own_entropy"].values, [entropy(row) for row in said], rtol=1e-4)
        of_all = np.array([row[label] for row, label in zip(together, given)])
        np.testing.assert_allclose(signals["panel_confidence"].values, of_all)
        assert signals["panel_confidence"].weight == OWN_WEIGHT * judges.own_share > 0
        counting = [name for name, each in signals.items() if each.counts]
        assert counting == ["panel_wrong", "panel_confidence"]


def test_without_a_vote_of_the_probabilities_the_judges_confidence_does_not_count(
    case: tuple[Judged, Judges, bool],
) -> None:
    found, judges, _ = case
    rest = judges.without_own_probabilities()
    signals = signals_of_classes(
        rest, "train", found.labels(), rest.together("train"), np.zeros(ROWS["train"])
    )
    assert [each.name for each in signals] == ["panel_wrong", "panel_linear", "panel_naive_bayes"]


def test_rows_of_other_roles_are_doubted_like_train_rows_of_the_same_ranks() -> None:
    random = np.random.RandomState(0)
    train = [
        SignalValues("a", random.normal(size=50), True, weight=1.0),
        SignalValues("b", random.randint(0, 9, 50).astype(float), False, weight=1.5),
        SignalValues("c", random.normal(size=50), True, counts=False),
    ]
    doubt = doubt_like_train(train, train)
    np.testing.assert_allclose(1 / (1 + np.exp(-doubt / 2.5)), suspicion(train))
    other = [
        SignalValues(each.name, each.values[:7], each.high_is_suspicious, "", each.counts, each.weight)
        for each in train
    ]
    np.testing.assert_allclose(doubt_like_train(other, train), doubt[:7])
    beyond = [
        SignalValues("a", np.array([-99.0, 99.0]), True),
        SignalValues("b", np.array([99.0, -99.0]), False, weight=1.5),
    ]
    low, high = doubt_like_train(beyond, train)
    assert low < doubt.min() < doubt.max() < high
