"""The benchmark on one file: its configurations, that it goes on where it stopped, peers and retrainings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.one_file import __main__ as one_file
from benchmarks.one_file import pieces as of_pieces
from benchmarks.one_file.arms import Arm, Retrainings
from benchmarks.one_file.configurations import Configuration, make_file, naming_plan, only, plan
from benchmarks.one_file.measures import row
from benchmarks.one_file.peers import FLAGGED, peers
from benchmarks.one_file.pieces import AUDIT, PEERS, Pieces
from benchmarks.one_file.sets import SETS
from benchmarks.one_file.tables import one_file as make_tables
from pipeline.config import AuditConfig, validate
from pipeline.errors import InputError

NOWHERE = Path("nowhere")
CANCER = Configuration("breast_cancer", "uniform", 0.1, 0)


def test_every_set_has_its_noises_and_a_core_of_three() -> None:
    planned = plan(list(SETS))
    assert len(planned) == len(set(planned)) == 2 * (7 * 7 + 4 + 3)
    core = [each.dataset for each in planned if each.is_core]
    assert sorted(core) == sorted(3 * list(SETS))
    assert {each.seed for each in planned if each.is_core} == {0}


def test_sources_are_named_on_sixty_files_with_one_and_sixty_without() -> None:
    noises = [each.noise for each in naming_plan(list(SETS))]
    assert min(noises.count("source"), noises.count("decoy")) == 63


def test_only_takes_a_set_a_noise_or_a_task() -> None:
    planned = plan(list(SETS), 1)
    assert {each.dataset for each in only(planned, ["trec"])} == {"trec"}
    assert len(only(planned, ["trec/uniform", "sst2/pairs/0.2"])) == 4
    with pytest.raises(InputError, match="--only trec/unifrom: no such configuration"):
        only(planned, ["trec/unifrom"])


def test_a_piece_counts_for_its_configuration_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = Pieces(tmp_path)
    rows = [row("winnow", "f1", 0.5, n=3), row("winnow", "verdict", "improved")]
    pieces.write(AUDIT, CANCER, rows, 1.26)
    found = pieces.read(AUDIT, CANCER)
    assert found is not None
    assert found.rows == rows
    assert found.header["seconds"] == 1.3
    assert pieces.read(AUDIT, Configuration("breast_cancer", "uniform", 0.1, 1)) is None
    assert pieces.read(PEERS, CANCER) is None
    monkeypatch.setitem(of_pieces.VERSIONS, AUDIT, 99)
    assert pieces.read(AUDIT, CANCER) is None


def test_only_what_depends_on_the_code_goes_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = Pieces(tmp_path)
    for part in (AUDIT, PEERS):
        pieces.write(part, CANCER, [], 1.0)
    assert not pieces.is_stale(AUDIT, CANCER)
    monkeypatch.setattr(of_pieces, "commit", lambda: "another")
    pieces = Pieces(tmp_path)
    assert pieces.is_stale(AUDIT, CANCER)
    assert not pieces.is_stale(PEERS, CANCER)


def test_the_same_command_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def peers_of(work: one_file.Work) -> list[dict[str, object]]:
        done.append(work.configuration.task)
        if len(done) == 2:
            raise KeyboardInterrupt
        return [row("planted", "share", 0.1)]

    monkeypatch.setattr(one_file.Work, "peers", peers_of)
    planned = [CANCER, Configuration("breast_cancer", "none", 0.0, 0)]
    with pytest.raises(KeyboardInterrupt):
        one_file.work_through(planned, [PEERS], NOWHERE, Pieces(tmp_path), fresh=False)
    one_file.work_through(planned, [PEERS], NOWHERE, Pieces(tmp_path), fresh=False)
    one_file.work_through(planned, [PEERS], NOWHERE, Pieces(tmp_path), fresh=False)
    assert done == ["breast_cancer/uniform/0.1", "breast_cancer/none/0", "breast_cancer/none/0"]


def test_peers_find_most_of_what_was_planted(tmp_path: Path) -> None:
    file = make_file(CANCER, NOWHERE, tmp_path)
    found = {opinion.finding.method: opinion for opinion in peers(CANCER.known, file.rows, 0)}
    assert {"cleanlab_boosting", "cleanlab_linear"} <= found.keys()
    flagged = found["cleanlab_boosting"].finding.flags[FLAGGED]
    assert (flagged & file.wrong).sum() > 0.7 * file.wrong.sum()
    assert found["cleanlab_boosting"].noise == pytest.approx(0.1, abs=0.05)


@pytest.fixture
def config() -> AuditConfig:
    tree = {
        "name": "one-file",
        "data": {
            "train": ["file.parquet"],
            "split": {"fractions": [0.8, 0.1, 0.1]},
            "features": CANCER.known.features,
            "label": "label",
            "key": "id",
        },
        "model": {"hidden": [8]},
        "training": {"epochs": 2, "batch_size": 64, "checkpoints": 1},
    }
    return validate(tree, "test")


def test_arms_are_trained_on_all_rows_of_the_file_and_only_once(
    tmp_path: Path, config: AuditConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.one_file.arms.RETRAININGS", (1, 2))
    file = make_file(CANCER, NOWHERE, tmp_path)
    everything = np.ones(file.rows.num_rows, dtype=bool)
    arms = {
        "as_given": Arm(everything),
        "right": Arm(everything, file.true),
        "planted": Arm(~file.wrong),
        "same": Arm(everything.copy()),
    }
    kept = tmp_path / "retrainings.jsonl"
    scores = Retrainings(kept).scores(
        config, arms, lambda: one_file.prepare_rows(config, file, tmp_path / "run")
    )
    assert scores["same"] == scores["as_given"]
    assert scores["right"] != scores["as_given"]
    assert all(0 <= score <= 1 for of_arm in scores.values() for score in of_arm)
    assert len(kept.read_text().splitlines()) == 3 * 2

    def never() -> Path:
        raise AssertionError("everything is known")

    assert Retrainings(kept).scores(config, arms, never) == scores


def test_tables_show_what_is_there() -> None:
    of_file = {"task": "digits/uniform/0.1", "seed": 0}
    rows = [
        {
            "task": "all",
            "method": "winnow",
            "metric": "f1 over cleanlab",
            "value": 0.02,
            "target": 0.05,
            "met": False,
            "n": 4,
        },
        of_file | {"part": "audit", "method": "winnow", "metric": "average_precision", "value": 0.9},
        of_file | {"part": "peers", "method": "cleanlab_mlp", "metric": "average_precision", "value": 0.8},
        of_file | {"part": "gains", "method": "as_given", "metric": "accuracy_true", "value": 0.9},
        of_file | {"part": "gains", "method": "planted", "metric": "accuracy_gain", "value": 0.021},
    ]
    text = make_tables(rows)
    assert "| f1 over cleanlab | 0.020 | 0.050 | missed by 0.030 | 4 |" in text
    assert "| digits | 0.900 | – | 0.800 |" in text
    assert "| digits/uniform/0.1 | 0 | 90.0 | +2.1 |" in text
