"""The shipped samples are what their READMEs say, and the script makes them again."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "data_samples"
ROWS = {
    "digits": (1200, 297, 300),
    "digits_pairs": (1200, 297, 300),
    "fashion_mnist": (6000, 1500, 3000),
    "adult": (6000, 1500, 3000),
    "sms_spam": (3400, 1000, 1100),
}
ROLES = ("train", "validation", "holdout")
DIGITS = ("digits", "digits_pairs")

each_sample = pytest.mark.parametrize("name", ROWS)


def shards(name: str, role: str) -> list[Path]:
    return sorted((SAMPLES / name / role).glob("*.parquet"))


def read(name: str, role: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in shards(name, role)])


def truth(name: str) -> pa.Table:
    return pq.read_table(SAMPLES / name / "truth.parquet")


def class_shifts(name: str) -> np.ndarray:
    """(given − true) mod 10 of the planted rows."""
    table = truth(name).filter(pc.field("is_wrong"))
    return (table["given_label"].to_numpy() - table["true_label"].to_numpy()) % 10


def run_make(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_samples.make", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def make_digits(name: str, output: Path) -> Path:
    done = run_make("--only", name, "--output", output)
    assert done.returncode == 0, done.stderr
    return output / name


@each_sample
def test_roles_have_the_stated_sizes(name: str) -> None:
    assert tuple(len(read(name, role)) for role in ROLES) == ROWS[name]


@each_sample
def test_no_place_and_no_content_is_in_two_roles(name: str) -> None:
    places: list[set[int]] = []
    contents: list[set[str]] = []
    for role in ROLES:
        table = read(name, role)
        places.append(set(table["index"].to_pylist()))
        rows = table.drop_columns(["label", "index"]).to_pylist()
        contents.append({" ".join(str(tuple(row.values())).casefold().split()) for row in rows})
    assert sum(map(len, places)) == len(set.union(*places)) == sum(ROWS[name])
    assert sum(map(len, contents)) == len(set.union(*contents))


def test_copies_of_a_text_are_kept() -> None:
    texts = read("sms_spam", "train")["text"].to_pylist()
    assert len(set(texts)) < len(texts)


@each_sample
def test_truth_follows_the_train_shards(name: str) -> None:
    table, known = read(name, "train"), truth(name)
    assert known.column_names == ["index", "true_label", "given_label", "is_wrong"]
    assert known["index"].equals(table["index"])
    assert known["given_label"].equals(table["label"])


@each_sample
def test_a_tenth_of_the_train_labels_is_wrong(name: str) -> None:
    known = truth(name)
    differs = [a != b for a, b in zip(known["true_label"].to_pylist(), known["given_label"].to_pylist())]
    assert differs == known["is_wrong"].to_pylist()
    assert sum(differs) == ROWS[name][0] // 10


def test_uniform_errors_go_to_every_other_class_alike() -> None:
    counts = np.bincount(class_shifts("fashion_mnist"), minlength=10)
    assert counts[0] == 0
    # 600 errors over nine shifts: 66.7 each, standard deviation 7.7.
    assert counts[1:].min() > 66.7 - 4 * 7.7
    assert counts[1:].max() < 66.7 + 4 * 7.7


def test_the_one_file_has_wrong_labels_in_every_part_and_a_truth_beside_it() -> None:
    folder = SAMPLES / "fashion_mnist_file"
    table, known = pq.read_table(folder / "fashion_mnist_file.parquet"), truth("fashion_mnist_file")
    assert sorted(path.name for path in folder.iterdir()) == [
        "LICENSE",
        "README.md",
        "fashion_mnist_file.parquet",
        "truth.parquet",
    ]
    assert len(table) == 4000
    assert known["index"].equals(table["index"])
    assert known["given_label"].equals(table["label"])
    wrong = known["is_wrong"].to_numpy()
    assert wrong.sum() == 800
    assert min(part.sum() for part in np.split(wrong, 4)) > 150  # 200 each, standard deviation 11
    shifts = np.bincount(class_shifts("fashion_mnist_file"), minlength=10)
    # 800 errors over nine shifts: 88.9 each, standard deviation 8.9.
    assert shifts[0] == 0
    assert np.abs(shifts[1:] - 88.9).max() < 4 * 8.9
    text = (folder / "README.md").read_text()
    assert "MIT" in text
    assert "--only fashion_mnist_file" in text


def test_class_pair_errors_go_to_the_next_class() -> None:
    assert set(class_shifts("digits_pairs")) == {1}
    assert set(truth("digits_pairs").filter(pc.field("is_wrong"))["true_label"].to_pylist()) == {*range(10)}


@each_sample
def test_every_shard_has_several_row_groups_in_zstd(name: str) -> None:
    for role in ROLES:
        for path in shards(name, role):
            metadata = pq.ParquetFile(path).metadata
            assert metadata.num_row_groups >= 2
            assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert len(shards(name, "train")) >= 2


@each_sample
def test_all_shards_share_one_schema_that_describes_them(name: str) -> None:
    schemas = [pq.read_schema(path) for role in ROLES for path in shards(name, role)]
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    metadata = {key.decode(): value.decode() for key, value in schemas[0].metadata.items()}
    assert {"dataset", "source", "licence", "planted"} <= metadata.keys()
    labels = read(name, "train")["label"].unique()
    classes = json.loads(metadata["classes"])
    assert {*labels.to_pylist()} == (
        {*classes} if pa.types.is_string(labels.type) else {*range(len(classes))}
    )
    if "image" in schemas[0].names:
        image = schemas[0].field("image")
        assert math.prod(json.loads(metadata["image_shape"])) == image.type.list_size
        assert image.type.value_type == pa.uint8()
        assert metadata["image_layout"] == "HW"


def test_missing_values_of_adult_are_null() -> None:
    for role in ROLES:
        table = read("adult", role)
        missing = {name for name in table.column_names if table[name].null_count}
        assert missing == {"workclass", "occupation", "native_country"}
        texts = [name for name in table.column_names if pa.types.is_string(table[name].type)]
        assert len(texts) == 9
        assert not any("?" in table[name].to_pylist() for name in texts)


@pytest.mark.parametrize("name", DIGITS)
def test_digits_are_scikit_learns(name: str) -> None:
    original = load_digits()
    tables = {role: read(name, role) for role in ROLES}
    tables["train"] = tables["train"].set_column(1, "label", truth(name)["true_label"])
    for table in tables.values():
        places = table["index"].to_numpy()
        pixels = np.array(table["image"].to_pylist())
        np.testing.assert_array_equal(np.rint(pixels * 16 / 255), original.data[places])
        np.testing.assert_array_equal(table["label"].to_numpy(), original.target[places])
    assert max(max(row) for row in tables["train"]["image"].to_pylist()) == 255


@pytest.mark.parametrize("name", DIGITS)
def test_digits_are_made_again(name: str, tmp_path: Path) -> None:
    made = make_digits(name, tmp_path)
    paths = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert paths == sorted(path.relative_to(SAMPLES / name) for path in (SAMPLES / name).rglob("*.parquet"))
    for path in paths:
        again, shipped = pq.ParquetFile(made / path), pq.ParquetFile(SAMPLES / name / path)
        assert again.read().equals(shipped.read(), check_metadata=True)
        if again.metadata.created_by == shipped.metadata.created_by:  # another pyarrow may encode otherwise
            assert (made / path).read_bytes() == (SAMPLES / name / path).read_bytes()


def test_originals_that_are_missing_are_named(tmp_path: Path) -> None:
    without = run_make("--only", "adult", "--output", tmp_path)
    assert without.returncode == 2
    assert "--source" in without.stderr
    elsewhere = run_make("--only", "adult", "--output", tmp_path, "--source", tmp_path / "nowhere")
    assert elsewhere.returncode == 2
    assert "nowhere/uci_adult/train.parquet" in elsewhere.stderr
    assert "Traceback" not in elsewhere.stderr


def test_originals_that_are_too_small_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sms_spam"
    folder.mkdir()
    few = pa.table({"text": ["a", "b"], "label": [0, 1], "index": [0, 1]})
    for part in ("train", "test"):
        pq.write_table(
            few.replace_schema_metadata({"classes": '["ham", "spam"]'}), folder / f"{part}.parquet"
        )
    done = run_make("--only", "sms_spam", "--source", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "4 rows for train, 3,400 are needed" in done.stderr


def test_all_samples_together_are_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 12e6


@each_sample
def test_every_sample_has_a_readme_with_its_licence(name: str) -> None:
    text = (SAMPLES / name / "README.md").read_text()
    licence = pq.read_schema(shards(name, "train")[0]).metadata[b"licence"].decode()
    assert licence in text
    assert f"--only {name}" in text
