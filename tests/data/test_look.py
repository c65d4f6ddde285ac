"""`winnow init`'s view of small files of many shapes."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import AuditConfig, load_config
from pipeline.data.files import matches
from pipeline.data.first_look.inspect_files import look
from pipeline.data.first_look.proposal import Proposal
from pipeline.errors import InputError

ROWS = 120
MEASURED = [float(i * 37 % 50) for i in range(ROWS)]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path: str, columns: dict | pa.Table, row_group_size: int = 50) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path, row_group_size=row_group_size)


def config_of(proposal: Proposal) -> AuditConfig:
    Path("proposed.yaml").write_text(proposal.to_yaml())
    return load_config("proposed.yaml")


def lines_of(proposal: Proposal) -> dict[str, str]:
    return {name: " ".join(text.split()) for name, text in proposal.describe()}


def reviews(rows: int = ROWS, first: int = 0) -> dict:
    when = datetime.datetime(2024, 1, 1)
    return {
        "review_id": [f"r{first + i}" for i in range(rows)],
        "review": [f"this film was number {i % 7} of all" + " really" * (i % 3) for i in range(rows)],
        "sentiment": ["negative" if i % 4 else "positive" for i in range(rows)],
        "created_at": [when + datetime.timedelta(hours=i) for i in range(rows)],
        "source": [f"site {i % 4}" for i in range(rows)],
    }


def test_reviews_as_in_the_first_contact():
    for part in range(3):
        write(f"reviews/part-{part}.parquet", reviews(first=part * ROWS))
    proposal = look(["reviews/part-0.parquet", "reviews/part-1.parquet", "reviews/part-2.parquet"])
    assert proposal.headline == "Looked at 3 files, 360 rows, 5 columns."
    assert lines_of(proposal) == {
        "label": "sentiment 2 classes: negative 75 %, positive 25 %",
        "text": "review median 8 words",
        "key": "review_id unique",
        "left out": "created_at (time), source (a group, who made the wrong labels: 4 values)",
        "group": "source: who made the wrong labels is looked for",
        "roles": "no split column: 70 % train, 15 % validation, 15 % holdout by a hash of the features",
        "labels": "not known to be clean in any role: every row is judged, none is taken for right",
    }
    config = config_of(proposal)
    assert config.name == "reviews"
    assert config.data.train == ["reviews/*.parquet"]
    assert config.data.split.fractions == (0.7, 0.15, 0.15)
    assert config.data.features == {"review": "text"}
    assert (config.data.label, config.data.task) == ("sentiment", "classification")
    assert (config.data.key, config.data.group) == ("review_id", ["source"])
    assert (config.model.name, config.model.embedding) == ("auto", 64)


def simple(rows: int = ROWS, first: int = 0, **more) -> dict:
    return {
        "id": range(first, first + rows),
        "x": np.linspace(0, 1, rows),
        "label": [0, 1] * (rows // 2),
        **more,
    }


@pytest.mark.parametrize(
    "paths",
    [
        ["train/a.parquet", "train/b.parquet", "validation/a.parquet", "holdout/a.parquet"],
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "valid.parquet", "test.parquet"],
        ["train_a.parquet", "train_b.parquet", "sub/my_val.parquet", "sub/my-test.parquet"],
    ],
)
def test_roles_by_folders_and_file_names(paths):
    for place, path in enumerate(paths):
        write(f"set/{path}", simple(first=place * ROWS))
    config = config_of(look(["set"]))
    assert config.name == "set"
    assert config.data.split is None
    assert len(list(Path().glob(config.data.train[0]))) * len(config.data.train) == 2
    assert config.data.validation == [f"set/{paths[2]}"]
    assert config.data.holdout == [f"set/{paths[3]}"]
    assert config.data.key == "id"


def test_a_key_has_to_be_unique_over_the_files_of_all_roles():
    for role in ("train", "valid", "test"):
        write(f"{role}.parquet", simple())
    proposal = look(["train.parquet", "valid.parquet", "test.parquet"])
    assert proposal.key is None
    assert "id" not in proposal.features
    assert lines_of(proposal)["key"] == "none: a row is named file#row"


@pytest.mark.parametrize("name", ["path", "file_name"])
def test_unique_names_of_files_are_the_key_unless_they_name_the_only_pictures(name):
    write("texts.parquet", {**simple(), "id": [0] * ROWS, name: [f"mail/{row}.txt" for row in range(ROWS)]})
    assert look(["texts.parquet"]).key == name
    write("pictures.parquet", {**simple(), "id": [0] * ROWS, name: [f"a/{row}.jpg" for row in range(ROWS)]})
    assert look(["pictures.parquet"]).key is None


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_roles_of_files_that_are_named_one_by_one(suffix):
    for place, role in enumerate(("train", "val", "holdout")):
        table = pa.table(simple(first=place * ROWS))
        if suffix == "csv":
            pyarrow.csv.write_csv(table, f"{role}.csv")
        else:
            Path(f"{role}.jsonl").write_text("\n".join(map(json.dumps, table.to_pylist())))
    config = config_of(look([f"{role}.{suffix}" for role in ("train", "val", "holdout")]))
    files = [config.data.train, config.data.validation, config.data.holdout]
    assert files == [[f"train.{suffix}"], [f"val.{suffix}"], [f"holdout.{suffix}"]]
    assert config.data.split is None
    assert config.data.key == "id"


def test_without_files_for_all_roles_the_train_files_are_cut_and_the_others_left_alone():
    write("set/train.parquet", simple())
    write("set/test.parquet", simple())
    write("set/notes.parquet", {"note": ["other columns"]})
    proposal = look(["set"])
    config = config_of(proposal)
    assert config.data.train == ["set/train.parquet"]
    assert config.data.split.fractions is not None
    assert lines_of(proposal)["not used"] == "set/notes.parquet, set/test.parquet"
    assert proposal.headline == "Looked at 1 file, 120 rows, 3 columns."


def test_a_folder_that_happens_to_be_called_test_is_no_role():
    write("test/mine/a.parquet", simple())
    assert config_of(look(["test/mine"])).data.train == ["test/mine/*.parquet"]
    assert look(["test/mine"]).name == "mine"


def test_roles_by_a_column_even_where_a_sample_would_show_train_only():
    words = ["train"] * 100 + ["dev"] * 10 + ["test"] * 10
    write("a.parquet", simple(split=words), row_group_size=ROWS)
    split = config_of(look(["a.parquet"])).data.split
    assert (split.column, split.train, split.validation, split.holdout) == ("split", "train", "dev", "test")
    write("b.parquet", simple(fold=["train", "test"] * 60))
    proposal = look(["b.parquet"])
    assert config_of(proposal).data.split.holdout == "test"
    assert lines_of(proposal)["roles"] == "column fold: train, holdout; no validation"


def test_a_split_column_of_other_words_or_numbers_is_no_role_and_no_feature():
    write("a.parquet", simple(split=["a", "b"] * 60, fold=[0, 1, 2, 3] * 30))
    config = config_of(look(["a.parquet"]))
    assert config.data.split.fractions == (0.7, 0.15, 0.15)
    assert set(config.data.features) == {"x"}


def test_kinds_of_a_table():
    rng = np.random.default_rng(0)
    columns = {
        "label": rng.integers(0, 2, ROWS),
        "age": rng.integers(18, 90, ROWS),
        "price": rng.normal(size=ROWS),
        "flag": [True, False] * 60,
        "city": [f"city {i % 9}" for i in range(ROWS)],
        "codes": pa.array([i % 3 for i in range(ROWS)], pa.int16()),
        "vector": pa.array(rng.normal(size=(ROWS, 4)).tolist(), pa.list_(pa.float32(), 4)),
        "floats": rng.normal(size=(ROWS, 3)).tolist(),
        "ragged": [[1.0] * (1 + i % 3) for i in range(ROWS)],
        "constant": [7] * ROWS,
        "nothing": pa.nulls(ROWS, pa.string()),
        "void": pa.nulls(ROWS),
        "token": [f"t{i}" for i in range(ROWS)],
        "day": [f"2024-03-{1 + i % 28:02}" for i in range(ROWS)],
        "clock": pa.array(range(ROWS), pa.time32("s")),
        "customer_id": [i % 50 for i in range(ROWS)],
        "old_label": rng.integers(0, 2, ROWS),
        "record": [{"a": 1}] * ROWS,
        "sample_weight": rng.uniform(0.5, 2, ROWS),
    }
    table = pa.table(columns)
    at = table.schema.get_field_index("codes")
    field = table.schema.field(at).with_metadata({"categories": '["a", "b", "c"]'})
    write("a.parquet", table.set_column(at, field, table.column(at)))
    proposal = look(["a.parquet"])
    assert proposal.features == {
        "age": "numeric",
        "price": "numeric",
        "flag": "boolean",
        "city": "category",
        "codes": "category",
        "vector": "list",
        "floats": "list",
    }
    left = {name: choice.remark for name, choice in proposal.choices.items() if not choice.kind}
    assert list(left) == [
        "ragged", "constant", "nothing", "void", "token", "day", "clock", "customer_id", "old_label", "record"
    ]  # fmt: skip
    assert (left["day"], left["clock"]) == ("time", "time")
    assert left["constant"] == left["nothing"] == "always the same"
    config = config_of(proposal)
    assert config.data.weight == "sample_weight"
    assert config.data.features == proposal.features
    assert config.model.name == "auto"


def test_lists_that_are_probabilities_of_all_classes_are_evidence():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet([1, 1, 1], ROWS)
    columns = {
        "x": rng.normal(size=ROWS),
        "chances": chances.tolist(),
        "emb": rng.normal(size=(ROWS, 16)).tolist(),
        "label": [i % 3 for i in range(ROWS)],
    }
    write("a.parquet", columns)
    proposal = look(["a.parquet"])
    assert proposal.features == {"x": "numeric", "emb": "list"}
    assert "as data.embeddings it is evidence" in proposal.choices["emb"].remark
    assert lines_of(proposal)["evidence"] == "chances: class probabilities, taken to be out of sample"
    data = config_of(proposal).data
    assert data.pred_probs is not None
    assert data.pred_probs.column == "chances"
    for other in ({"label": [i % 4 for i in range(ROWS)]}, {"chances": (chances * 2).tolist()}):
        write("a.parquet", columns | other)
        assert look(["a.parquet"]).features == {"x": "numeric", "chances": "list", "emb": "list"}
    write("a.parquet", {name: columns[name] for name in ("chances", "label")})
    assert look(["a.parquet"]).features == {"chances": "list"}


def png(height: int, width: int, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "png")
    return buffer.getvalue()


def pixels(size: int) -> pa.Array:
    return pa.array(np.zeros((ROWS, size), np.uint8).tolist(), pa.list_(pa.uint8(), size))


@pytest.mark.parametrize(
    ("column", "metadata", "text", "model"),
    [
        (pixels(64), None, "8×8 grey", "auto"),
        (pixels(96), {"shape": "[8, 12]", "layout": "HW"}, "12×8 grey", "auto"),
        (pixels(192), None, "8×8 RGB", "convnet"),
        (pixels(192), {"shape": "[3, 8, 8]", "layout": "CHW"}, "8×8 RGB", "convnet"),
        (pa.array([png(28, 20, "L")] * ROWS), None, "20×28 grey", "auto"),
        (pa.array([png(40, 40, "L")] * ROWS), None, "40×40 grey", "convnet"),
        (
            pa.array([None] + [{"bytes": png(8, 9, "RGB"), "path": "a"}] * (ROWS - 1)),
            None,
            "9×8 RGB",
            "convnet",
        ),
    ],
)
def test_images_stand_alone(column, metadata, text, model):
    label = pa.array([0, 1] * 60)
    fields = [
        pa.field("picture", column.type, metadata=metadata),
        ("width", pa.int64()),
        ("label", pa.int64()),
    ]
    write(
        "a.parquet",
        pa.table([column, pa.array([i % 9 for i in range(ROWS)]), label], schema=pa.schema(fields)),
    )
    proposal = look(["a.parquet"])
    config = config_of(proposal)
    assert lines_of(proposal)["image"] == f"picture {text}"
    assert lines_of(proposal)["left out"] == "width (numeric beside an image)"
    assert (config.data.features, config.model.name) == ({"picture": "image"}, model)


def test_short_lists_and_other_bytes_are_no_images():
    write("a.parquet", simple(bits=pixels(16), blob=[b"no image"] * ROWS))
    proposal = look(["a.parquet"])
    assert proposal.features == {"x": "numeric", "bits": "list"}
    assert proposal.choices["blob"].remark == "bytes, not images"


def mixed(rows: int = ROWS) -> list[bytes]:
    return [png(28 + row % 3, 30, ["L", "RGB", "P"][row % 3]) for row in range(rows)]


def picture_choice(photos: pa.Array | list, path: str = "a.parquet") -> Proposal:
    write(path, {"photo": photos, "label": [0, 1] * 60})
    return look([path])


def test_pictures_of_several_sizes_or_modes_get_one_size():
    photos = [b"cut off", *mixed()[1:]]
    proposal = picture_choice(photos)
    found = lines_of(proposal)["image"]
    assert (
        found
        == "photo 30×28 to 30×30 RGB and grey and palette, 1 of 84 looked at can't be read, read at 30×30"
    )
    assert config_of(proposal).data.image_size == (30, 30)


@pytest.mark.parametrize(
    ("photo", "size"),
    [
        (png(64, 64, "RGB"), None),
        (png(640, 320, "RGB"), (32, 16)),
        (png(20, 20, "RGBA"), (20, 20)),
        (png(300, 300, "L"), (32, 32)),
    ],
)
def test_large_pictures_and_pictures_with_alpha_are_read_at_a_proposed_size(photo, size):
    assert config_of(picture_choice([photo] * ROWS)).data.image_size == size


@pytest.mark.parametrize(("folder", "root"), [("d", None), (".", "."), ("d/more", "d")])
def test_paths_of_pictures_are_pictures_and_their_root_is_found(folder, root):
    Path("d/img").mkdir(parents=True)
    if root == ".":
        Path("img").symlink_to("d/img")
    for row, photo in enumerate(mixed()):
        Path(f"d/img/{row}.png").write_bytes(photo)
    proposal = picture_choice([f"img/{row}.png" for row in range(ROWS)], f"{folder}/a.parquet")
    config = config_of(proposal)
    assert config.data.features == {"photo": "image"}
    assert config.data.image_root == (None if root == "." else root)


@pytest.mark.parametrize(
    ("photos", "why"),
    [
        ([f"https://example.org/{row}.jpg" for row in range(ROWS)], "web addresses of pictures: nothing is downloaded"),
        ([f"img/{row}.jpg" for row in range(ROWS)], "names of pictures, none of which is a picture in"),
        ([{"bytes": None, "path": f"{row}.png"} for row in range(ROWS)], "the bytes are not embedded"),
    ],
)  # fmt: skip
def test_pictures_that_are_not_there_are_left_out_in_words(photos, why):
    column = pa.array(photos)
    if pa.types.is_struct(column.type):
        column = pa.array(photos, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    with pytest.raises(InputError) as caught:
        picture_choice(column)
    assert f"photo ({why}" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "characters"),
    [
        (["今天", "天气", "真好", "我们", "出去", "散步"], 13),
        (["วันนี้", "อากาศ", "ดีมาก", "เรา", "ไป", "เดิน"], 26),
    ],
)
def test_texts_in_scripts_without_spaces_are_texts(words, characters):
    random = np.random.RandomState(0)
    texts = ["".join(random.permutation(words)) + "。" for _ in range(ROWS)]
    write("a.parquet", {"review": texts, "label": [i % 2 for i in range(ROWS)]})
    proposal = look(["a.parquet"])
    assert lines_of(proposal)["text"] == f"review median {characters} characters"
    assert config_of(proposal).data.features == {"review": "text"}


def test_short_names_in_scripts_without_spaces_are_categories():
    cities = ["北京", "上海", "广州", "黑龙江"]
    columns = {"city": [cities[i % 4] for i in range(ROWS)], "label": [i % 2 for i in range(ROWS)]}
    write("a.parquet", columns)
    assert look(["a.parquet"]).features == {"city": "category"}


def test_all_texts_are_taken_beside_the_table():
    body = ["many more words are in the body of it"] * 60 + ["or in the other body of it too"] * 60
    write("a.parquet", simple(title=[f"a title of {i} words" for i in range(ROWS)], body=body))
    assert look(["a.parquet"]).features == {"x": "numeric", "title": "text", "body": "text"}


@pytest.mark.parametrize(
    "values", [pa.array(["no", "yes"] * 60), pa.array(["no", "yes"] * 60).dictionary_encode()]
)
def test_text_labels_and_their_shares(values):
    write("a.parquet", {"x": MEASURED, "Class": values})
    proposal = look(["a.parquet"])
    assert lines_of(proposal)["label"] == "Class 2 classes: no 50 %, yes 50 %"


def test_many_classes_are_told_by_their_range():
    write("a.parquet", {"x": MEASURED, "y": [0] * 60 + [1] * 30 + [2] * 18 + [3] * 6 + [4] * 6})
    assert lines_of(look(["a.parquet"]))["label"] == "y 5 classes of 5 % to 50 %"


def test_numbers_to_predict():
    write("a.parquet", {"x": MEASURED, "target": [0.25 * i for i in range(ROWS - 1)] + [None]})
    proposal = look(["a.parquet"])
    assert proposal.label.text == "a number, 0 to 29.5"
    config = config_of(proposal)
    assert (config.data.task, config.data.missing_label) == ("regression", "drop")
    write("b.parquet", {"x": MEASURED, "target": range(ROWS)})
    assert config_of(look(["b.parquet"])).data.task == "regression"
    write("c.parquet", {"x": MEASURED, "target": [0.0, 1.0] * 60})
    label = look(["c.parquet"]).label
    assert (label.task, label.text.split(":")[0]) == ("classification", "2 classes")
    assert label.text.endswith("a number to predict: task: regression")


def test_gaps_are_found_and_filled():
    write(
        "a.parquet",
        simple(y2=[None, *range(ROWS - 1)], city=[None, "a", "b"] * 40, z=[np.nan, *range(ROWS - 1)]),
    )
    proposal = look(["a.parquet"])
    assert proposal.gaps == ["y2", "z"]
    assert config_of(proposal).data.missing_features == "impute"
    write("b.parquet", simple())
    assert config_of(look(["b.parquet"])).data.missing_features == "error"


def test_missing_class_labels_are_dropped_and_counted():
    write("a.parquet", {"x": MEASURED, "label": ["a", "b", None] * 40})
    proposal = look(["a.parquet"])
    assert "missing_label: drop  # 40 rows" in proposal.to_yaml()
    assert lines_of(proposal)["label"] == "label 2 classes: a 50 %, b 50 %"


def test_a_label_that_cannot_be_told_is_asked_for():
    write(
        "a.parquet",
        {"x": np.linspace(0, 1, ROWS), "mood": ["good", "bad"] * 60, "kind": ["a", "b", "c"] * 40},
    )
    with pytest.raises(InputError, match="mood, kind") as caught:
        look(["a.parquet"])
    assert "--label COLUMN" in caught.value.hint
    assert look(["a.parquet"], label="mood").label.column == "mood"
    with pytest.raises(InputError, match="--label moon: no such column"):
        look(["a.parquet"], label="moon")
    write("b.parquet", {"x": [1, 2], "label": [[0.5], [2.5]]})
    with pytest.raises(InputError, match="label column 'label' is list"):
        look(["b.parquet"])


def test_several_columns_that_speak_of_labels_are_asked_about():
    write("a.parquet", {"x": MEASURED, "first_label": [0, 1] * 60, "second_label": [0, 1] * 60})
    with pytest.raises(InputError, match="first_label, second_label"):
        look(["a.parquet"])


def test_errors_name_the_file():
    with pytest.raises(InputError, match="nothing-here"):
        look(["nothing-here/*.parquet"])
    Path("bad.parquet").write_text("no Parquet at all")
    with pytest.raises(InputError, match=r"bad\.parquet: not a Parquet file"):
        look(["bad.parquet"])
    write("empty.parquet", pa.schema([("x", pa.int64()), ("label", pa.int64())]).empty_table())
    with pytest.raises(InputError, match=r"empty\.parquet: no rows"):
        look(["empty.parquet"])
    write("d/a.parquet", simple())
    write("d/b.parquet", {"id": [1], "label": [0]})
    with pytest.raises(InputError, match=r"d/b\.parquet: no column 'x'"):
        look(["d"])
    write("only.parquet", {"label": [0, 1] * 60, "id": range(ROWS)})
    with pytest.raises(InputError, match="no column is left as a feature"):
        look(["only.parquet"])


@pytest.mark.parametrize(("said", "value"), [(None, False), (True, True), (False, False)])
def test_whether_validation_is_clean_is_asked(said, value):
    write("a.parquet", simple())
    proposal = look(["a.parquet"], validation_is_clean=said)
    assert config_of(proposal).data.validation_is_clean is value
    assert config_of(proposal).data.labels_are_clean("holdout") is False  # cut from the same file
    assert ("Not known" in proposal.to_yaml()) is (said is None)
    assert ("validation labels are clean, as you said" in lines_of(proposal)["labels"]) is bool(said)


@pytest.mark.parametrize(
    ("name", "values", "groups", "feature"),
    [
        ("vendor", [f"v{i % 5}" for i in range(ROWS)], ["vendor"], None),
        ("annotator_id", [i % 7 for i in range(ROWS)], ["annotator_id"], None),
        ("Country", ["de", "fr", "it"] * 40, ["Country"], "category"),
        ("device_id", [f"d{i % 6}" for i in range(ROWS)], ["device_id"], None),
        ("country", ["de"] * ROWS, [], None),
        ("source", np.linspace(0, 1, ROWS), [], "numeric"),
        ("colour", ["red", "blue", "green"] * 40, [], "category"),
    ],
)
def test_few_values_under_the_name_of_a_source_are_a_group(name, values, groups, feature):
    write("a.parquet", simple(**{name: values}))
    config = config_of(look(["a.parquet"]))
    assert config.data.group == groups
    assert config.data.features.get(name) == feature


def test_more_values_than_a_group_has_are_none():
    few = [f"w{i % 200}" for i in range(600)]
    write("a.parquet", simple(600, worker=few, rater=[f"r{i % 201}" for i in range(600)]), row_group_size=600)
    assert config_of(look(["a.parquet"])).data.group == ["worker"]


def test_awkward_names_survive_the_yaml():
    names = ["a: b", "yes", "#no", "x, y", "new\nline", "ünï", "[1]", "{", "12", "null", "it's", ' "q" ']
    columns = {name: np.linspace(place, place + 1, ROWS) for place, name in enumerate(names)}
    columns |= {f"{name} (old)\n#": ["same"] * ROWS for name in names}
    write("my data, [2024]/the file.parquet", {**columns, "on": ["a: #b\n", "- c"] * 60})
    config = config_of(look(["my data, [2024]"], label="on"))
    assert list(config.data.features) == names
    assert config.data.label == "on"
    (pattern,) = config.data.train
    assert matches(pattern, "train") == ["my data, [2024]/the file.parquet"]
    assert config.name == "my-data-2024"


def test_every_choice_has_a_comment():
    write("a.parquet", reviews())
    text = look(["a.parquet"]).to_yaml()
    bare = [line for line in text.splitlines() if line and "#" not in line]
    known = {"data:", "training:", "detection:", "verification:", "name: a", "    - a.parquet"}
    plain = {"momentum: 0.9", "weight_decay: 0.001", "batch_size: 32", "seed: 0", "task: classification"}
    assert {line.strip() for line in bare} <= {line.strip() for line in known} | plain | {
        "validation_is_clean: false"
    }


def test_a_folder_with_one_file_stays_open_for_more():
    write("weeks/1.parquet", simple())
    assert config_of(look(["weeks"])).data.train == ["weeks/*.parquet"]
    assert config_of(look(["weeks/1.parquet"])).data.train == ["weeks/1.parquet"]
