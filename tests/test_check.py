"""The pre-flight: it validates all data, estimates from measured times, and each warning says what to do."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import nn

from pipeline.attribution import coverage
from pipeline.config import AuditConfig
from pipeline.errors import InputError
from pipeline.preflight import estimate as module
from pipeline.preflight import resource_lines
from pipeline.preflight.check import check
from pipeline.preflight.data_lines import role_status
from pipeline.preflight.estimate import Costs, Sizes, panel_seconds, stage_seconds
from pipeline.preflight.expected_findings import cut, findings, labels
from pipeline.preflight.model_lines import approximated_lines, model_line, unseen_lines
from pipeline.preflight.resource_lines import disk_line, memory_line, time_line
from pipeline.preflight.result import Preflight
from pipeline.training.recipe import make_recipe

DIGITS = Path(__file__).parents[1] / "data_samples/digits"
STEPS_ALONE = dict.fromkeys(
    ("average", "evaluated_row", "covariance_row", "eigenvalue_row", "eigenvectors", "loaded_row"), 0.0
)
COSTS = Costs(step=1.0, **STEPS_ALONE)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIAL_SECONDS", 0.01)


def config(**sections: Any) -> AuditConfig:
    data = {role: str(DIGITS / role) for role in ("train", "validation", "holdout")}
    tree: dict[str, Any] = {
        "name": "digits",
        "data": data | {"features": {"image": "image"}, "label": "label", "key": "index"},
        "model": {"hidden": [16]},
        "compute": {"workers": 2},
    }
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section
    return AuditConfig.model_validate(tree)


def texts(found: Preflight) -> dict[str, str]:
    return {line.name: f"{line.text}  {line.status}" for line in found.lines if line.name}


def test_sound_data_pass_and_every_question_is_answered() -> None:
    found = check(config())
    assert found.ok
    said = texts(found)
    assert said["data"].startswith("1,797 rows in 5 shards")
    assert said["roles"].startswith("1,200 train, 297 validation, 300 holdout")
    assert said["model"].startswith("mlp, 1,210 parameters, 100 % covered")  # 64·16 + 16 + 16·10 + 10
    assert "(25 retrainings and 20 for fidelity)   on 2 workers" in said["will take"]
    assert "memory per worker" in said["will need"]
    assert "mislabelled" in said["will say"]
    assert set(found.as_dict()) == {"ok", "lines", "layers", "seconds"}
    assert [(layer.parameters, layer.form) for layer in found.layers] == [
        (1040, "rank one"),
        (170, "rank one"),
    ]
    assert all(layer.operations > 0 and layer.bytes > 0 for layer in found.layers)


def test_what_a_trial_will_try_is_said_and_counted_in_the_time() -> None:
    auto = {"epochs": "auto", "learning_rate": "auto"}
    found = check(config(model={"name": "auto"}, training=auto))
    assert texts(found)["model"].startswith("mlp, 1,210 parameters")
    assert texts(found)["will try"] == (
        "2 models (mlp, convnet), learning rates 0.003 to 0.3, 10 to 60 epochs, on 1,200 rows of train; the times are "
        "for 20 epochs  ok"
    )
    assert "will try" not in texts(check(config()))


def test_a_precision_that_the_machine_lacks_is_named() -> None:
    with pytest.raises(InputError, match="precision is tf32, which only GPUs have"):
        check(config(attribution={"precision": "tf32"}, compute={"device": "cpu"}))


def test_nothing_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    check(config())
    assert not list(tmp_path.iterdir())


def test_missing_roles_are_warned_about() -> None:
    said = texts(check(config(data={"validation": None, "holdout": None})))
    assert "warning: without holdout rows nothing can be proved; give data.holdout" in said["roles"]
    said = texts(check(config(data={"validation": None})))
    assert "warning: without validation rows" in said["roles"]
    assert "give data.validation" in said["roles"]


def test_few_validation_rows_are_warned_about() -> None:
    assert "warning: 99 validation rows say little" in role_status(
        config(), {"validation": 99, "holdout": 300}
    )
    assert role_status(config(), {"validation": 100, "holdout": 300}) == "ok"


def test_harmful_is_announced_only_with_clean_validation_labels() -> None:
    assert "only with data.validation_is_clean" in texts(check(config()))["will say"]
    said = texts(check(config(data={"validation_is_clean": True})))["will say"]
    assert "harmful, backdoor; spurious only with data.slices" in said


def test_the_situation_is_said_of_each_role_with_what_follows() -> None:
    rows = {"train": 100, "validation": 50, "holdout": 50}
    noisy = labels(config(), rows)
    assert [(text.partition(":")[0], status) for text, status in noisy] == [
        ("validation as noisy as train", "ok"),
        ("holdout as noisy as train", "ok"),
    ]
    clean = labels(config(data={"validation_is_clean": True}), rows)
    assert [text.partition(":")[0] for text, _ in clean] == [
        "validation declared clean",
        "holdout declared clean",
    ]
    assert labels(config(), rows | {"validation": 0, "holdout": 0}) == []
    assert "as noisy as train" in texts(check(config()))["labels"]


@pytest.mark.parametrize("role", ["validation", "holdout"])
@pytest.mark.parametrize("split", [{"fractions": [0.8, 0.1, 0.1]}, {"column": "part"}])
def test_clean_rows_cut_from_the_files_of_train_are_warned_about(role: str, split: dict[str, Any]) -> None:
    cut_from_one = {"validation": None, "holdout": None, "split": split}
    rows = {"train": 100, "validation": 50, "holdout": 50}
    found = labels(config(data=cut_from_one | {f"{role}_is_clean": True}), rows)
    warned = [text.split()[0] for text, status in found if status.startswith("warning")]
    assert warned == [role]
    assert not any(status != "ok" for _, status in labels(config(data={f"{role}_is_clean": True}), rows))


def test_reasons_are_announced_where_the_audit_can_give_them() -> None:
    rows = {"train": 100, "validation": 50, "holdout": 50}
    sliced = config(data={"slices": ["site"]})
    assert findings(sliced, "classification", rows).startswith(
        "mislabelled, ambiguous, outlier, corrupted, duplicate-conflict, backdoor, spurious; harmful only"
    )
    assert "backdoor" not in findings(sliced, "regression", rows)
    assert "backdoor" not in findings(sliced, "classification", rows | {"validation": 0})
    assert "backdoor only with" in findings(config(detection={"backdoors": False}), "classification", rows)


@pytest.mark.parametrize(
    ("values", "text", "status"),
    [
        (pa.array(["a", "b"] * 20), "site: 2 different values, 2 slices of 5 rows or more", ""),
        (pa.array([f"k{row}" for row in range(40)]), "site: 40 different values, 0 slices", "as a key has"),
        (pa.array(range(4000)), "site: 4,000 different values, 8 slices", "as a key has"),
        (pa.array([row / 7 for row in range(4000)]), "site: 4,000 different values, 8 slices", ""),
        (
            pa.array([f"k{row // 3}" for row in range(90)]),
            "site: 30 different values, 0 slices",
            "in no slice",
        ),
    ],
)
def test_a_column_that_makes_no_slices_is_warned_about(values: pa.Array, text: str, status: str) -> None:
    found, warned = cut("site", values)
    assert found.startswith(text)
    assert (status in warned) if status else not warned


def test_slices_are_among_the_answers(tmp_path: Path) -> None:
    paths = {}
    for role in ("train", "validation"):
        table = pa.concat_tables(pq.read_table(path) for path in sorted((DIGITS / role).glob("*.parquet")))
        table = table.append_column("site", pa.array([f"s{row % 3}" for row in range(len(table))]))
        pq.write_table(table, tmp_path / f"{role}.parquet")
        paths[role] = str(tmp_path / f"{role}.parquet")
    said = texts(check(config(data=paths | {"slices": ["site"], "holdout": None})))
    assert said["slices"].startswith("site: 3 different values, 3 slices of 5 rows or more")
    assert "spurious" in said["will say"]


def test_wrong_row_in_the_last_file_is_found(tmp_path: Path) -> None:
    shutil.copytree(DIGITS / "train", tmp_path / "train")
    last = tmp_path / "train/part-002.parquet"
    table = pq.read_table(last)
    labels = table["label"].to_pylist()
    labels[399] = None
    pq.write_table(table.set_column(1, table.schema.field("label"), pa.array(labels, pa.int64())), last)
    with pytest.raises(InputError, match=r"part-002\.parquet, row 399: label is null"):
        check(config(data={"train": str(tmp_path / "train")}))


def test_conflicting_duplicates_and_shared_rows_are_counted(tmp_path: Path) -> None:
    table = pq.read_table(DIGITS / "train/part-000.parquet")
    twice = pa.concat_tables([table, table.slice(0, 3)])
    labels = table["label"].to_pylist()
    twice = twice.set_column(
        1, "label", pa.array([*labels, (labels[0] + 1) % 10, labels[1], labels[2]], pa.int64())
    )
    pq.write_table(twice, tmp_path / "train.parquet")
    pq.write_table(pa.concat_tables([table.slice(5, 2)]), tmp_path / "validation.parquet")
    paths = {role: str(tmp_path / f"{role}.parquet") for role in ("train", "validation")}
    found = check(config(data=paths | {"key": None, "holdout": None}))
    assert texts(found)["duplicates"].startswith("4 rows occur more than once, 2 with several labels")
    assert any(
        line.text == "2 rows stand in two roles" and "take them out" in line.status for line in found.lines
    )


def test_more_checkpoints_than_steps_is_an_error() -> None:
    with pytest.raises(InputError, match=r"training\.checkpoints is 60"):
        check(config(training={"epochs": 1, "checkpoints": 60, "batch_size": 64}))


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"model": {"name": "custom", "target": "own_model:with_batchnorm"}}, "BatchNorm in training mode"),
        ({"training": {"memory_budget": 1000}}, "rows are streamed"),
    ],
)
def test_a_training_that_cannot_be_unrolled_is_refused(
    sections: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(InputError, match=f"verification.unrolled.*{named}"):
        check(config(**sections, verification={"unrolled": True}))


def seconds(sizes: Sizes, costs: Costs = COSTS, **sections: Any) -> dict[str, float]:
    made = config(**sections)
    return stage_seconds(made, sizes, costs, make_recipe(made.training, sizes.rows["train"], 0))


def sizes(workers: int = 1, **changes: Any) -> Sizes:
    numbers = {"row_bytes": 100, "parameters": 1000, "factor_numbers": 5000, "source_bytes": 10_000}
    rows = {"train": 640, "validation": 100, "holdout": 100}
    return Sizes(rows=rows, workers=workers, **(numbers | changes))


class TestTime:
    """640 rows in batches of 64, 20 epochs: 200 steps of a second."""

    def test_training_is_the_main_run_and_two_halves(self) -> None:
        assert seconds(sizes())["train"] == 400
        assert seconds(sizes(workers=2))["train"] == 300
        assert seconds(sizes(workers=9))["train"] == 300
        assert seconds(sizes(), detection={"halves": False})["train"] == 200

    @pytest.mark.parametrize(("workers", "rounds"), [(1, 25), (2, 13), (25, 1), (40, 1)])
    def test_retrainings_run_in_rounds(self, workers: int, rounds: int) -> None:
        assert seconds(sizes(workers), verification={"fidelity": 0})["verify"] == rounds * 200

    def test_groups_for_fidelity_and_their_controls_count_where_there_is_a_validation_set(self) -> None:
        assert seconds(sizes())["verify"] == (25 + 16 + 4) * 200
        assert seconds(sizes(), verification={"fidelity": 40})["verify"] == (25 + 40 + 10) * 200
        both = seconds(sizes(), verification={"fidelity": 40, "same_order": True})
        assert both["verify"] == (25 + 40 + 10 + 40 + 1) * 200
        none = dataclasses.replace(sizes(), rows={"train": 640, "validation": 0, "holdout": 100})
        assert seconds(none)["verify"] == 25 * 200

    def test_every_arm_counts_beside_the_rows_as_given_and_one_control(self) -> None:
        assert seconds(sizes(), verification={"arms": ["removed"], "fidelity": 0})["verify"] == 15 * 200

    def test_a_retraining_is_loaded_averaged_and_measured(self) -> None:
        costs = Costs(step=0.0, **STEPS_ALONE | {"average": 1.0, "evaluated_row": 0.1, "loaded_row": 0.01})
        one = 0.25 * 200 + (2 * 100 + 100) * 0.1 + 640 * 0.01
        found = seconds(sizes(), costs, verification={"arms": ["removed"], "fidelity": 0})
        assert found["verify"] == pytest.approx(15 * one)

    def test_every_epoch_ends_with_a_look_at_the_rows(self) -> None:
        costs = Costs(step=0.0, **STEPS_ALONE | {"evaluated_row": 0.01})
        assert seconds(sizes(), costs)["train"] == pytest.approx(20 * 0.01 * (740 + 420 + 420))

    def test_workers_start_once_while_the_model_trains(self) -> None:
        costs = Costs(step=0.0, **STEPS_ALONE, start=6.0)
        found = seconds(sizes(), costs, detection={"repeats": 3})
        assert found["train"] == 6.0
        assert sum(found.values()) - sum(seconds(sizes(), Costs(step=0.0, **STEPS_ALONE)).values()) == 6.0

    def test_exact_differentiation_is_said_to_take_several_trainings(self) -> None:
        changes = {"verification": {"seeds": 0, "unrolled": True}}
        one = 1 + 3 + 24 * (2 / 3) / 20  # record, replay, two backwards, 24 times two thirds of a pass
        assert seconds(sizes(), **changes)["verify"] == pytest.approx(one * 200)
        both = seconds(sizes(workers=5), verification={"fidelity": 0, "unrolled": True})
        assert both["verify"] == pytest.approx((25 / 5 + one) * 200)
        line = time_line(config(**changes), sizes(), seconds(sizes(), **changes))
        assert "(exact differentiation, as long as 4.8 trainings)   on 1 worker" in line.text
        adam = changes | {"training": {"optimizer": "adamw"}}
        assert seconds(sizes(), **adam)["verify"] == pytest.approx(4 * 200)

    def test_no_verification_takes_no_time(self) -> None:
        assert "verify" not in seconds(sizes(), verification={"seeds": 0})

    def test_detection_takes_time_for_every_row_and_for_the_search(self) -> None:
        assert seconds(sizes(workers=2))["detect"] == pytest.approx(640 * 2e-4 + 640 * 1e-3 / 2)
        assert seconds(sizes(), detection={"backdoors": False})["detect"] == pytest.approx(640 * 2e-4)
        twice = seconds(sizes(workers=2), detection={"repeats": 2})["detect"]
        assert twice == pytest.approx(300 + 640 * 2e-4 + 640 * 1e-3 / 2)

    def test_the_panel_takes_longer_with_more_rows_classes_and_kinds(self) -> None:
        table = panel_seconds(2000, frozenset({"columns"}), 2)
        assert panel_seconds(8000, frozenset({"columns"}), 2) > table
        assert panel_seconds(2000, frozenset({"columns"}), 10) > table
        assert panel_seconds(2000, frozenset({"columns", "texts"}), 2) > table
        assert "panel" not in seconds(sizes(), detection={"panel": False})
        folds = panel_seconds(640, frozenset({"columns"}), 3)
        found = seconds(sizes(workers=2, kinds=frozenset({"columns"}), classes=3))
        assert found["panel"] == pytest.approx(5 * folds / 2)

    def test_attribution_passes_over_all_rows_at_every_checkpoint(self) -> None:
        passes = {"covariance_row": 1.0, "eigenvalue_row": 2.0, "eigenvectors": 7.0}
        costs = Costs(step=0.0, **STEPS_ALONE | passes)
        assert seconds(sizes(workers=2), costs)["factors"] == 6 * 320 * 3 + 7
        assert seconds(sizes(workers=2), costs, training={"checkpoints": 3})["factors"] == 3 * 320 * 3 + 7


class TestNeeds:
    def test_too_little_memory_says_how_much_to_allow(self) -> None:
        line = memory_line(config(compute={"memory_per_worker": "512 MiB"}), sizes(factor_numbers=10**9))
        assert line.status.startswith("warning: set compute.memory_per_worker to ")

    def test_more_workers_than_memory_says_to_lower_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resource_lines.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
        assert "lower compute.workers from 64" in memory_line(config(), sizes(workers=64)).status

    def test_full_disk_stands_in_the_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resource_lines.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        line = disk_line(config(), sizes())
        assert line.status.startswith("error: only 1.0 kB are free")
        assert not Preflight([line]).ok

    def test_layers_that_attribution_does_not_see_are_named(self) -> None:
        names = [f"lstm.weight_{place}" for place in range(5)]
        seen = SimpleNamespace(covered=10, total=100, share=0.1, uncovered=names, types=["LSTM"])
        line = model_line("custom", seen)  # type: ignore[arg-type]
        assert line.status.startswith(
            "warning: influence through lstm.weight_0, lstm.weight_1, lstm.weight_2 and 2 more is not seen (LSTM); use"
        )

    def test_a_weight_that_is_used_behind_its_layers_back_is_named(self) -> None:
        (line,) = unseen_lines(["head.weight"])
        assert line.text == "head.weight used outside the layer's own call"
        assert line.status.startswith("warning: influence through that use is not seen")
        assert unseen_lines([]) == []

    def test_layers_with_many_outputs_are_named(self) -> None:
        head = nn.Sequential(nn.Linear(2, 5000))
        (line,) = approximated_lines(coverage(head))
        assert line.text.startswith("0 has 5,000 outputs, more than 4,096")
        assert approximated_lines(coverage(head, widest_outputs=5000)) == []
