from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import AuditConfig, load_config, validate
from pipeline.config.messages import option_names
from pipeline.config.yaml_text import write_yaml
from pipeline.errors import InputError

ROOT = Path(__file__).parents[1]
MINIMAL = {"name": "x", "data": {"train": "a.parquet", "features": {"image": "image"}, "label": "y"}}


def changed(section: str, **values: object) -> dict[str, object]:
    return MINIMAL | {section: dict(MINIMAL.get(section, {})) | values}  # type: ignore[call-overload]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_example_config_is_valid(path: Path) -> None:
    assert load_config(path).name.replace("-", "_") == path.stem


def test_yaml_written_from_a_config_gives_the_same_config(tmp_path: Path) -> None:
    config = validate(MINIMAL, "test")
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("tree", "named", "hint"),
    [
        (MINIMAL | {"detecton": {}}, "`detecton`", "`detection`"),
        (changed("detection", max_remove=0.1), "`detection.max_remove`", "`detection.max_removed`"),
        (
            changed("training", epochs="some"),
            "`training.epochs` is 'some': not a whole number or auto",
            "Change",
        ),
        (changed("training", epochs=0), "`training.epochs` is 0: input should be greater", "Change"),
        (changed("training", epochs=True), "training.epochs: true is not a number", "Change"),
        (
            changed("training", epochs="auto", trajectory="t"),
            "`training.epochs` is auto, and training.trajec",
            "Change",
        ),
        (changed("training", epochs="many"), "`training.epochs` is 'many'", "Change"),
        (changed("training", learning_rate=-1), "`training.learning_rate` is -1", "Change"),
        (changed("training", batch_size=True), "training.batch_size: true is not a number", "Change"),
        (changed("training", momentum=1.0), "`training.momentum`", "Change"),
        (changed("attribution", segments=7), "attribution.segments is 7", "Change"),
        (changed("attribution", segments=4), "not a multiple", "Change"),
        (
            changed("attribution", refined_rows=256),
            "`refined_rows` is used by `method: source_refined` alone, and the method is source",
            "Change",
        ),
        (
            changed("attribution", method="source_refined", refined_prior=-0.1),
            "`attribution.refined_prior` is -0.1",
            "Change",
        ),
        (
            changed("attribution", method="source_refined", refined_iterations=0),
            "`attribution.refined_iterations` is 0",
            "Change",
        ),
        (changed("compute", workers=0), "`workers` is 0", "Change"),
        (changed("verification", seeds=1), "one seed gives no interval", "Change"),
        (changed("verification", unrolled=True), "there are no validation rows", "Change"),
        (
            changed("data", split={"fractions": [0.9, 0, 0.1]}) | {"verification": {"unrolled": True}},
            "there are no validation rows",
            "Change",
        ),
        (
            changed("data", validation="v.parquet")
            | {"verification": {"unrolled": True}, "training": {"trajectory": "recorded"}},
            "training.trajectory is one made elsewhere",
            "Change",
        ),
        (changed("detection", rule="trusted"), "`rule: trusted` needs `trusted`", "Change"),
        (changed("detection", answers="a.parquet"), "`answers` is used by `rule: reviewed` alone", "Change"),
        (
            changed("detection", rule="reviewed", answers="a", canaries=5),
            "`canaries` change the ranking",
            "Change",
        ),
        (changed("detection", false_flag_rate=0), "`detection.false_flag_rate` is 0", "Change"),
        (
            changed("attribution", group_harm="maybe"),
            "`attribution.group_harm` is 'maybe': not true, false or auto",
            "Change",
        ),
        (
            changed("compute", workers="all"),
            "`compute.workers` is 'all': not a whole number or auto",
            "Change",
        ),
        (changed("data", features={"image": "sound"}), "`data.features.image` is 'sound'", "Change"),
        (changed("model", hidden=[8, 0]), "`model.hidden.1` is 0", "Change"),
        (changed("data", split={"fractions": [2, 0, 0]}), "`data.split.fractions.0` is 2", "Change"),
        (changed("data", split={"colum": "x"}), "unknown key `data.split.colum`", "`data.split.column`"),
        (changed("data", label="image"), "'image' is a feature", "Change"),
        (changed("data", split={"fractions": [0.5, 0.1, 0.1]}), "add up to 0.7", "Change"),
        (changed("data", split={"fractions": [0, 0.5, 0.5]}), "the first of `fractions` is 0", "Change"),
        (changed("data", split={}), "either `column` or `fractions`", "Change"),
        (
            changed("data", split={"column": "s"}, holdout="h"),
            "leave `validation` and `holdout` out",
            "Change",
        ),
        (changed("data", embeddings="image"), "'image' is a feature and has another role", "Change"),
        (changed("data", embeddings={"file": "e"}), "`data.embeddings.column` is missing", "Add"),
        (changed("data", embeddings={"file": "e", "column": "v"}), "name their column in `key`", "Change"),
        (changed("data", embeddings={"column": "v", "key": "id"}), "there is no `file`", "Change"),
        (changed("data", pred_probs={}), "either `column` or `columns`", "Change"),
        (changed("data", pred_probs={"columns": {0: "a", 1: "a"}}), "names a column twice", "Change"),
        (changed("data", pred_probs="p", task="regression"), "the task is regression", "Change"),
        (
            changed("data", pred_probs="p") | {"detection": {"panel": False}},
            "detection.panel is false",
            "Change",
        ),
        (changed("model", name="custom"), "needs `target", "Change"),
        (changed("model", kwargs={"width": 3}), "there is no `target`", "Change"),
        (changed("training", learning_rate=float("inf")), "`training.learning_rate` is inf", "Change"),
        (changed("training", memory_budget="two"), "not a size", "Change"),
        ({"name": "x"}, "`data` is missing", "winnow init"),
        (MINIMAL | {"name": "../x"}, "`name` is '../x'", "Change"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_config_is_named_with_what_to_do(tree: dict[str, object], named: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        validate(tree, "c.yaml")
    assert named in error.value.message
    assert hint in (error.value.hint or "")
    assert error.value.exit_status == 2


def test_a_column_of_evidence_may_stand_alone_and_classes_are_text(tmp_path: Path) -> None:
    tree = changed("data", embeddings="v", pred_probs={"columns": {True: "a", 3: "b"}})
    (tmp_path / "c.yaml").write_text(validate(tree, "test").to_yaml())
    data = load_config(tmp_path / "c.yaml").data
    assert data.embeddings is not None
    assert data.embeddings.column == "v"
    assert data.pred_probs is not None
    assert data.pred_probs.columns == {"true": "a", "3": "b"}
    assert data.evidence_columns == ["v", "a", "b"]


def test_a_key_of_several_kinds_is_complained_about_once() -> None:
    with pytest.raises(InputError) as error:
        validate(changed("attribution", group_harm="maybe", segments="two"), "c.yaml")
    assert error.value.message.count("group_harm") == 1
    assert error.value.message.count("\n") == 1


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such config file"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2")
    with pytest.raises(InputError, match=r"broken\.yaml, line 2: not valid YAML"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "twice.yaml").write_text("name: x\ntraining: {seed: 1}\ntraining: {seed: 2}\n")
    with pytest.raises(InputError, match=r"twice\.yaml, line 3: the key `training` stands twice"):
        load_config(tmp_path / "twice.yaml")
    (tmp_path / "deep.yaml").write_text("name: x\ntraining:\n  'a\"b': 1\n  'a\"b': 2\n")
    with pytest.raises(InputError, match=r"deep\.yaml, line 4: the key `a\"b` stands twice"):
        load_config(tmp_path / "deep.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(InputError, match=r"empty\.yaml: empty"):
        load_config(tmp_path / "empty.yaml")


def test_changes_are_applied_and_validated() -> None:
    config = validate(MINIMAL, "test").with_changes(
        {"detection.max_removed": 0.1, "compute.memory_per_worker": "1 GiB"}
    )
    assert config.detection.max_removed == 0.1
    assert config.compute.memory_per_worker == 2**30
    with pytest.raises(InputError, match=r"detection\.max_removed"):
        config.with_changes({"detection.max_removed": 2})


@pytest.mark.parametrize(("old", "new"), [("sampled", "mc"), ("exact", "exact")])
def test_a_key_of_an_earlier_version_means_what_it_meant_and_is_named_once(
    old: str, new: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text, path = write_yaml(MINIMAL) + f"attribution:\n  labels: {old}\n", tmp_path / "c.yaml"
    path.write_text(text)
    assert load_config(path) == load_config(path) == validate(changed("attribution", fisher=new), "test")
    told = f"{path}: `attribution.labels` is called `attribution.fisher` now; "
    told += f"`attribution.fisher: {new}` means the same"
    assert [record.getMessage() for record in caplog.records] == [told]


def test_the_config_of_an_older_run_is_read_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.yaml").write_text(write_yaml(changed("attribution", labels="exact")))
    (tmp_path / "record.json").write_text("{}")
    assert load_config(tmp_path / "config.yaml").attribution.fisher == "exact"
    assert not caplog.records


def test_changes_by_an_earlier_key_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(write_yaml(changed("attribution", fisher="exact")))
    assert load_config(tmp_path / "c.yaml", {"attribution.labels": "sampled"}).attribution.fisher == "mc"


def test_an_earlier_key_beside_its_successor_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(write_yaml(changed("attribution", fisher="mc", labels="exact")))
    with pytest.raises(InputError, match=r"unknown key `attribution\.labels`"):
        load_config(tmp_path / "c.yaml")


def test_an_earlier_key_with_a_wrong_value_is_refused_by_its_present_name(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(write_yaml(changed("attribution", labels="drawn")))
    with pytest.raises(InputError, match=r"`attribution\.fisher` is 'drawn'"):
        load_config(tmp_path / "c.yaml")


def test_the_option_surface_is_frozen() -> None:
    """Adding an option is a decision: change this number with the documentation, docs/reference/config.md."""
    names = option_names(AuditConfig)
    assert len(names) == len(set(names)) == 128
    text = (ROOT / "docs" / "reference" / "config.md").read_text()
    missing = [name for name in names if f"`{name.rsplit('.', 1)[-1]}`" not in text]
    assert not missing


def test_a_config_is_frozen() -> None:
    config = validate(MINIMAL, "test")
    assert isinstance(config, AuditConfig)
    with pytest.raises(Exception, match="frozen"):
        config.name = "other"  # type: ignore[misc]
