"""The trial that chooses the model, the learning rate and the epochs where the config says `auto`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.inline import Inline
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.config import AuditConfig
from pipeline.errors import InputError
from pipeline.models import build_model, initialise
from pipeline.report.trial import trial_sentence, trial_words
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, read_json, write_text
from pipeline.stages.repeats import repeat
from pipeline.stages.stages import STAGES, fingerprints, run_stage
from pipeline.training.main_run import whole_trajectory
from pipeline.training.trial import epochs_for, mean_curve
from pipeline.training.tried import PART, drawn_rows
from pipeline.workers.worker import run_config, run_data

ROWS = {"train": 90, "validation": 20}
AUTO: dict[str, Any] = {"model.name": "auto", "training.learning_rate": "auto", "training.epochs": "auto"}


def write_rows(folder: Path, seed: int = 0) -> None:
    """Two classes by whether `x` is in the middle; every eighth label of train is wrong."""
    random = np.random.default_rng(seed)
    for role, count in ROWS.items():
        x = random.normal(size=count)
        truth = np.abs(x) < 0.7
        wrong = (np.arange(count) % 8 == 3) & (role == "train")
        labels = np.where(truth ^ wrong, "in", "out")
        pq.write_table(
            pa.table({"x": x, "z": random.normal(size=count), "label": labels}), folder / f"{role}.parquet"
        )


def config_of(folder: Path, changes: dict[str, Any] | None = None) -> AuditConfig:
    tree = {
        "name": "tried",
        "data": {role: str(folder / f"{role}.parquet") for role in ROWS}
        | {"features": {"x": "numeric", "z": "numeric"}, "label": "label"},
        "model": {"hidden": [8]},
        "training": {"batch_size": 16, "checkpoints": 3, "weight_decay": 0},
        "attribution": {"segments": 3},
        "verification": {"seeds": 0, "fidelity": 0},
    }
    return AuditConfig.model_validate(tree).with_changes(AUTO | (changes or {}))


def trained(
    folder: Path, name: str = "run", changes: dict[str, Any] | None = None, workers: Any = None
) -> RunDirectory:
    """The stages `prepare` and `train` in this process."""
    config = config_of(folder, changes)
    run = RunDirectory(folder / name)
    with run.lock():
        write_text(run / "config.yaml", config.to_yaml())
        context = AuditContext(config, run, workers or Inline(config.compute))
        expected = fingerprints(config)
        for stage in STAGES[:2]:
            run_stage(stage, context, expected[stage.name])
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial")
    write_rows(folder)
    trained(folder)
    return folder


def chosen_in(folder: Path, name: str = "run") -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / name / "training/chosen.json")
    return found


def test_everything_after_the_trial_sees_what_it_chose(folder: Path) -> None:
    run, found = RunDirectory(folder / "run"), chosen_in(folder)
    settled, facts = run_config(run.path), run.facts("train")
    assert found["chosen"] == {
        "model.name": settled.model.name,
        "training.learning_rate": settled.training.learning_rate,
        "training.epochs": settled.training.epochs,
    }
    assert settled.left_to_trial == []
    assert (facts["model"], facts["epochs"]) == (found["model"], found["epochs"])
    steps = found["epochs"] * -(-ROWS["train"] // 16)
    assert Trajectory.load(whole_trajectory(run.path)).checkpoints[-1].step == steps
    assert "epochs: auto" in (run / "config.yaml").read_text()


def test_the_lowest_loss_on_held_out_rows_wins(folder: Path) -> None:
    found = chosen_in(folder)
    assert found["tried"][0]["loss"] == min(each["loss"] for each in found["tried"] + found["first"])
    assert {each["model"] for each in found["first"]} == {"mlp", "table"}
    assert {each["model"] for each in found["tried"]} == {"mlp", "table"}
    assert found["model"] == "table"  # the classes are no straight line apart
    assert found["judged"] == 2 * ROWS["train"] / PART


def test_a_try_is_the_training_of_the_audit_on_the_other_rows(folder: Path) -> None:
    """Against a loop with torch's own optimizer on the encoded rows."""
    run, best = folder / "run", chosen_in(folder)["tried"][0]
    config, data = run_config(run), run_data(run)
    rows, drawn = data.load_role("train"), drawn_rows(data, 0, 2**30)
    losses = []
    for fold in range(2):
        held = np.zeros(len(rows), dtype=bool)
        held[drawn[fold::PART]] = True
        fit, judge = (rows.select(torch.from_numpy(np.flatnonzero(chosen))) for chosen in (~held, held))
        of_model = config.model.model_copy(update={"name": best["model"]})
        model = initialise(lambda m=of_model: build_model(m, data.encoding), 0)  # type: ignore[misc]
        optimizer = torch.optim.SGD(model.parameters(), best["learning_rate"], momentum=0.9)
        for epoch in range(best["epochs"]):
            order = torch.randperm(len(fit), generator=torch.Generator().manual_seed(epoch))
            for batch in order.split(16):
                outputs = model(fit.inputs[batch])
                loss = (
                    torch.nn.functional.cross_entropy(outputs, fit.labels[batch].long(), reduction="sum") / 16
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            losses.append(torch.nn.functional.cross_entropy(model(judge.inputs), judge.labels.long()).item())
    assert np.mean(losses) == pytest.approx(best["loss"], rel=1e-4)


def test_labels_of_other_roles_do_not_count(folder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path)
    rows = pq.read_table(tmp_path / "validation.parquet")
    turned = pa.array(["in" if label == "out" else "out" for label in rows["label"].to_pylist()])
    pq.write_table(rows.set_column(2, "label", turned), tmp_path / "validation.parquet")
    trained(tmp_path)
    assert chosen_in(tmp_path) == chosen_in(folder)


class Killed(Exception):
    pass


class Mortal(Inline):
    """Dies before its task number `last`; remembers the names of the trial's tasks."""

    def __init__(self, config: Any, last: int):
        super().__init__(config)
        self.last, self.tried = last, 0

    def run(
        self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], names: Sequence[str], *more: Any
    ) -> Any:
        def counted(*arguments: Any) -> Any:
            if function.__name__ == "try_setting":
                self.tried += 1
                if self.tried == self.last:
                    raise Killed
            return function(*arguments)

        return super().run(counted, tasks, names, *more)


def test_a_trial_that_was_killed_goes_on_and_chooses_the_same(folder: Path, tmp_path: Path) -> None:
    """The first tries of both models are done, and one of those that decide."""
    write_rows(tmp_path)
    compute, last = config_of(tmp_path).compute, 22
    with pytest.raises(Killed):
        trained(tmp_path, workers=Mortal(compute, last))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/training/trial").iterdir()}
    assert len(before) == last - 1
    assert not (tmp_path / "run/training/chosen.json").exists()
    trained(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    chosen = "run/training/chosen.json"
    assert (tmp_path / chosen).read_bytes() == (folder / chosen).read_bytes()


def test_a_damaged_choice_is_made_anew(tmp_path: Path) -> None:
    write_rows(tmp_path)
    path = trained(tmp_path, changes={"model.name": "mlp", "training.epochs": 5}) / "training/chosen.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:20])
    trained(tmp_path, changes={"model.name": "mlp", "training.epochs": 5})
    assert path.read_bytes() == whole


def test_given_epochs_are_tried_to_their_end(tmp_path: Path) -> None:
    write_rows(tmp_path)
    trained(tmp_path, changes={"model.name": "mlp", "training.epochs": 9})
    found = chosen_in(tmp_path)
    assert list(found["chosen"]) == ["training.learning_rate"]
    assert [each["epochs"] for each in found["tried"]] == [9, 9]
    assert found["epochs"] == 9


def test_where_the_learning_rate_falls_every_length_is_a_training_of_its_own(tmp_path: Path) -> None:
    write_rows(tmp_path)
    changes = {"model.name": "mlp", "training.learning_rate": 0.1, "training.schedule": "cosine"}
    trained(tmp_path, changes=changes)
    found = chosen_in(tmp_path)
    assert found["first"] == []
    assert sorted(each["epochs"] for each in found["tried"]) == [5, 10, 20, 40]


def test_nothing_is_tried_where_nothing_is_auto(tmp_path: Path) -> None:
    write_rows(tmp_path)
    run = trained(tmp_path, changes=dict(zip(AUTO, ("mlp", 0.03, 5))))
    assert run.facts("train")["trial"] is None
    assert not (run / "training/chosen.json").exists()
    assert not (run / "training/trial").exists()


def test_further_trainings_have_what_the_trial_chose(folder: Path) -> None:
    run = RunDirectory(folder / "run")
    context = AuditContext(run_config(run.path), run, Inline(run_config(run.path).compute))
    with run.lock():
        further = repeat(context, 2)
    assert further.config.left_to_trial == []
    assert further.run.facts("train")["epochs"] == chosen_in(folder)["epochs"]


def test_a_rate_at_which_every_training_diverges_is_an_error(tmp_path: Path) -> None:
    write_rows(tmp_path)
    changes = {"model.name": "mlp", "training.learning_rate": 1e30}
    with pytest.raises(InputError, match="the trial of mlp: the loss became infinite"):
        trained(tmp_path, changes=changes)


def test_the_epochs_of_the_main_run() -> None:
    assert epochs_for(best=12, drawn=400, rows=400, batch_size=32, checkpoints=6) == 12
    assert epochs_for(best=2, drawn=400, rows=400, batch_size=32, checkpoints=6) == 5
    assert (
        epochs_for(best=60, drawn=4_000, rows=64_000, batch_size=64, checkpoints=6) == 30
    )  # 16 times the rows
    assert (
        epochs_for(best=3, drawn=20, rows=20, batch_size=32, checkpoints=6) == 6
    )  # a step for every checkpoint


def test_epochs_count_that_all_parts_were_judged_after() -> None:
    assert mean_curve([[3.0, 1.0], [1.0, 2.0, 4.0]]) == [2.0, 1.5]
    assert mean_curve([[3.0, None], [1.0, 2.0, 4.0]]) == [2.0, None]


def test_what_won_is_said_with_by_how_much() -> None:
    tried = [
        {"model": "table", "learning_rate": 0.01, "epochs": 4, "loss": 0.372},
        {"model": "mlp", "learning_rate": 0.03, "epochs": 7, "loss": 0.393},
        {"model": "mlp", "learning_rate": 0.1, "epochs": 3, "loss": 0.5},
    ]
    trial = {"model": "table", "learning_rate": 0.01, "epochs": 5, "rows": 280, "judged": 112, "tried": tried}
    assert trial_words(trial) == "table, 5 epochs at 0.01 (held-out loss 0.372; mlp 0.393)"
    assert trial_sentence(json.loads(json.dumps(trial))) == (
        "A trial chose: table, 5 epochs, learning rate 0.01. Its loss was 0.372 on held-out rows, after 4 epochs of "
        "training on 280 rows of train, 112 of them held out in turn. mlp had 0.393, 0.0210 more, after 7 epochs at "
        "0.03."
    )
    assert trial_sentence(None) == ""
