"""The panel on small data with planted wrong labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score

from pipeline.config import AuditConfig
from pipeline.data.prepare import prepare
from pipeline.panel.opinions import panel_margin, read_panel
from pipeline.panel.stage import panel_stage

from .small import COLUMNS, Judged, columns, config, judge, judged, make_context, texts


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Judged, np.ndarray]:
    train, wrong = columns(600)
    tables = {"train": train, "validation": columns(90, 1)[0], "holdout": columns(70, 2)[0]}
    return judge(tmp_path_factory.mktemp("table"), tables, COLUMNS), wrong


def test_every_row_of_every_role_gets_probabilities(table: tuple[Judged, np.ndarray]) -> None:
    found, _ = table
    assert [each.name for each in found.panel.judges] == ["linear", "boosting", "extra_trees"]
    for role, rows in {"train": 600, "validation": 90, "holdout": 70}.items():
        for name in ("mean", "linear", "boosting", "extra_trees"):
            opinions = found.panel.of(name, role)
            assert opinions.shape == (rows, 3)
            assert opinions.dtype == np.float32
            assert np.isfinite(opinions).all()
            np.testing.assert_allclose(opinions.sum(1), 1, atol=1e-5)
        assert found.panel.judged(role).all()


def test_the_mean_finds_wrong_labels(table: tuple[Judged, np.ndarray]) -> None:
    found, wrong = table
    margin = panel_margin(np.array(found.panel.mean("train")), found.labels())
    assert average_precision_score(wrong, -margin) > 0.85


def test_weights_add_up_and_a_judge_that_does_not_count_has_a_reason(
    table: tuple[Judged, np.ndarray],
) -> None:
    judges = table[0].panel.judges
    assert sum(each.weight for each in judges) == pytest.approx(1)
    assert all(each.counts == (each.weight > 0) == (each.why == "") for each in judges)
    assert all(0 < (each.log_loss or 0) < table[0].panel.facts["baseline_log_loss"] for each in judges)


def test_nothing_but_opinions_is_left(table: tuple[Judged, np.ndarray]) -> None:
    names = {path.name for path in (table[0].path / "panel").iterdir()}
    assert names == {"judges.json", "judged", "mean", "linear", "boosting", "extra_trees"}


def test_text_is_judged_by_two_families(tmp_path: Path) -> None:
    train, wrong = texts(400)
    found = judge(tmp_path, {"train": train}, {"text": "text"})
    assert [each.name for each in found.panel.judges] == ["linear", "naive_bayes"]
    margin = panel_margin(np.array(found.panel.mean("train")), found.labels())
    assert average_precision_score(wrong, -margin) > 0.9


def test_text_without_spaces_is_judged(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    truth = random.randint(0, 2, 300)
    subjects = ("球队比赛进球联赛教练", "银行市场利润股票贸易")
    sentences = ["".join(random.choice(list(subjects[of]), 8)) for of in truth]
    wrong = random.rand(300) < 0.1
    given = np.where(wrong, 1 - truth, truth)
    found = judge(tmp_path, {"train": {"text": sentences, "label": given}}, {"text": "text"})
    margin = panel_margin(np.array(found.panel.mean("train")), found.labels())
    assert average_precision_score(wrong, -margin) > 0.9


def test_without_a_panel_nothing_is_written(tmp_path: Path) -> None:
    context = make_context(config(COLUMNS, {"panel": False}, train="nowhere.parquet"), tmp_path)
    assert panel_stage(context) == {"judges": []}
    assert read_panel(tmp_path) is None


def test_labels_of_other_roles_change_no_opinion_on_train_rows(tmp_path: Path) -> None:
    train, _ = columns(300)
    other, _ = columns(80, 1)
    turned = other | {"label": (other["label"] + 1) % 3}
    one = judge(tmp_path / "one", {"train": train, "validation": other, "holdout": other}, COLUMNS)
    two = judge(tmp_path / "two", {"train": train, "validation": turned, "holdout": turned}, COLUMNS)
    assert one.facts == two.facts
    for name in ("mean", "linear", "boosting", "extra_trees"):
        for role in ("train", "validation", "holdout"):
            np.testing.assert_array_equal(one.panel.of(name, role), two.panel.of(name, role))


def test_the_own_label_of_a_row_and_of_its_copies_changes_no_opinion_on_it(tmp_path: Path) -> None:
    train, _ = columns(300)
    copied = {name: np.concatenate([values, values[:1]]) for name, values in train.items()}
    copied["label"][-1] = (copied["label"][0] + 1) % 3
    found = judge(tmp_path, {"train": copied}, COLUMNS)
    for name in ("linear", "boosting", "extra_trees"):
        opinions = found.panel.of(name, "train")
        np.testing.assert_allclose(opinions[0], opinions[-1], atol=1e-6)


def test_judges_without_the_group_are_blind_to_it(tmp_path: Path) -> None:
    """The vendor alone tells the class: who does not see it, knows nothing."""
    random = np.random.RandomState(0)

    def rows(count: int) -> dict[str, object]:
        label = random.randint(0, 2, count)
        vendor = np.array(["a", "b"])[label]
        return {"x": random.normal(0, 1, count), "vendor": vendor, "label": label}

    features = {"x": "numeric", "vendor": "category"}
    found = judge(tmp_path, {"train": rows(300), "holdout": rows(100)}, features, group="vendor")
    seen, blind = found.panel.mean("holdout"), found.panel.mean("holdout", blind=True)
    labels = found.labels("holdout")
    assert (seen.argmax(1) == labels).all()
    assert (blind.argmax(1) == labels).mean() < 0.7
    assert found.panel.has_blind("holdout")
    assert not found.panel.has_blind("train")


def test_a_class_with_fewer_rows_than_folds_is_not_judged(tmp_path: Path) -> None:
    train, _ = columns(200)
    train["label"][:3] = 7
    train["label"][3:9] = 8
    found = judge(tmp_path, {"train": train}, COLUMNS)
    known = found.panel.judged("train")
    assert (~known).nonzero()[0].tolist() == [0, 1, 2]
    assert found.facts["not_judged_classes"] == [7]
    assert np.isfinite(found.panel.mean("train")).all()


def test_a_stage_that_was_killed_goes_on_to_the_same_opinions(tmp_path: Path) -> None:
    train, _ = columns(300)
    whole = judge(tmp_path / "whole", {"train": train}, COLUMNS)
    calls = 0

    def dies_in_the_middle(function, tasks, names, on_done=lambda place, result: None):
        nonlocal calls
        for place, (task, _) in enumerate(zip(tasks, names)):
            calls += 1
            if calls == 9:
                raise KeyboardInterrupt
            on_done(place, function(*task))

    context = make_context(whole_config(tmp_path), tmp_path / "killed")
    prepare(context)
    alive, context.workers.run = context.workers.run, dies_in_the_middle
    with pytest.raises(KeyboardInterrupt):
        panel_stage(context)
    done = len(list((tmp_path / "killed/panel/work").rglob("*-train.npy")))
    assert done == 7
    context.workers.run = alive
    panel_stage(context)
    found = read_panel(tmp_path / "killed")
    assert found is not None
    np.testing.assert_array_equal(found.mean("train"), whole.panel.mean("train"))


def whole_config(folder: Path) -> AuditConfig:
    return config(COLUMNS, train=str(folder / "whole/train.parquet"))


def test_rows_are_read_in_the_order_of_the_encoded_rows(tmp_path: Path) -> None:
    """Fractions cut one file, in several row groups, into roles: each text has to meet its own label."""
    train, _ = texts(900, noise=0.0)
    (tmp_path / "shards").mkdir()
    whole = pa.table(train)
    pq.write_table(whole.slice(0, 500), tmp_path / "shards/a.parquet", row_group_size=70)
    pq.write_table(whole.slice(500), tmp_path / "shards/b.parquet", row_group_size=1000)
    found = judge_shards(tmp_path)
    for role in ("train", "validation", "holdout"):
        accuracy = (found.panel.mean(role).argmax(1) == found.labels(role)).mean()
        assert accuracy > 0.97


def judge_shards(folder: Path) -> Judged:
    split = {"fractions": [0.6, 0.2, 0.2]}
    context = make_context(
        config({"text": "text"}, train=str(folder / "shards"), split=split), folder / "run"
    )
    prepare(context)
    return judged(context)


def test_targets_are_predicted_out_of_fold(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    values = random.normal(0, 1, (400, 2))
    target = 3 * values[:, 0] + values[:, 1] ** 2 + random.normal(0, 0.1, 400) + 50
    wrong = random.rand(400) < 0.1
    target[wrong] = random.permutation(target)[wrong]
    train = {"a": values[:, 0], "b": values[:, 1], "label": target}
    found = judge(
        tmp_path, {"train": train, "holdout": train}, {"a": "numeric", "b": "numeric"}, task="regression"
    )
    assert [each.name for each in found.panel.judges] == ["linear", "boosting", "extra_trees"]
    assert all(each.error is not None and each.log_loss is None for each in found.panel.judges)
    residual = np.abs(found.panel.mean("train") - found.labels())
    assert residual.shape == (400,)
    assert average_precision_score(wrong, residual) > 0.6
    assert found.panel.mean("holdout").shape == (400,)


def test_every_label_of_a_set_is_judged_by_itself(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    values = random.normal(0, 1, (400, 2))
    truth = values > 0
    wrong = random.rand(400) < 0.1
    given = truth ^ (wrong[:, None] & np.array([[True, False]]))
    sets = [[name for name, there in zip("ab", row) if there] for row in given]
    train = {"x": values[:, 0], "y": values[:, 1], "label": pa.array(sets, pa.list_(pa.string()))}
    found = judge(tmp_path, {"train": train}, {"x": "numeric", "y": "numeric"})
    opinions = np.array(found.panel.mean("train"))
    assert opinions.shape == (400, 2)
    margin = panel_margin(opinions, found.labels())
    assert average_precision_score(wrong, -margin) > 0.8


def test_images_and_mixed_rows_are_judged(tmp_path: Path) -> None:
    train, wrong = texts(300)
    bright = np.clip(random_pixels(train["label"], 0), 0, 255).astype(np.uint8)
    train |= {
        "number": np.arange(300.0),
        "picture": pa.FixedSizeListArray.from_arrays(pa.array(bright.reshape(-1)), 81),
    }
    features = {"text": "text", "number": "numeric", "picture": "image"}
    found = judge(tmp_path, {"train": train}, features)
    assert [each.name for each in found.panel.judges] == ["linear", "naive_bayes", "boosting", "extra_trees"]
    margin = panel_margin(np.array(found.panel.mean("train")), found.labels())
    assert average_precision_score(wrong, -margin) > 0.8


def random_pixels(labels: np.ndarray, seed: int) -> np.ndarray:
    """Noise that knows nothing of the labels, `[rows, 9 · 9]`."""
    return np.random.RandomState(seed).normal(120, 40, (len(labels), 81))


def test_missing_numbers_are_seen_as_missing(tmp_path: Path) -> None:
    """Whether the number is there tells the class; its value tells nothing."""
    random = np.random.RandomState(0)
    label = random.randint(0, 2, 300)
    value = np.where(label == 1, None, random.normal(0, 1, 300))
    other = random.normal(0, 1, 300)
    train = {"x": pa.array(value.tolist(), pa.float64()), "other": other, "label": label}
    features = {"x": "numeric", "other": "numeric"}
    found = judge(tmp_path, {"train": train}, features, missing_features="impute")
    for name in ("linear", "boosting", "extra_trees"):
        assert (found.panel.of(name, "train").argmax(1) == label).mean() > 0.98


def test_above_the_bound_judges_are_fitted_on_a_sample_and_judge_all_rows(tmp_path: Path) -> None:
    train, wrong = columns(1500)
    found = judge(tmp_path, {"train": train}, COLUMNS, {"panel_rows": 400})
    assert 250 < found.facts["fitted_rows"] <= 400
    margin = panel_margin(np.array(found.panel.mean("train")), found.labels())
    assert average_precision_score(wrong, -margin) > 0.8
