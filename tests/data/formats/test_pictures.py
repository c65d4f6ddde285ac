"""Folders of pictures as tables, and their export with copies in class folders."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.exports import config, make_run
from pipeline.data.files import SourceFile, matches, open_shards, source_fingerprint
from pipeline.data.first_look.roles import find_sources
from pipeline.data.formats.sources import open_source
from pipeline.errors import InputError
from pipeline.export.export import export_rows


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write(folder: str, names: list[str]) -> dict[str, bytes]:
    """Name → content of the pictures written."""
    contents = {name: picture(place) for place, name in enumerate(names)}
    for name, content in contents.items():
        (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_bytes(content)
    return contents


def rows_of(path: str) -> list[dict]:
    return open_source(path).read().to_pylist()


NAMES = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/deep/3.png"]


def test_a_row_a_picture_with_its_subfolder_as_label() -> None:
    contents = write("photos", NAMES)
    Path("photos/dog/notes.txt").write_text("no picture")
    Path("photos/cat/.hidden.png").write_bytes(b"x")
    assert matches("photos", "train") == ["photos"]
    assert rows_of("photos") == [
        {"image": {"bytes": content, "path": name}, "path": name, "label": name[:3]}
        for name, content in contents.items()
    ]


def test_classes_below_a_folder_that_holds_all_and_pictures_without_a_class() -> None:
    write("a", ["images/cat/1.png", "images/dog/1.png"])
    assert [row["label"] for row in rows_of("a")] == ["cat", "dog"]
    write("b", ["1.png", "cat/2.png"])
    assert [row["label"] for row in rows_of("b")] == [None, "cat"]


def test_folders_named_after_roles_are_sources_of_their_own() -> None:
    for folder in ("train", "val", "test"):
        write(f"photos/{folder}", NAMES)
    assert matches("photos", "train") == ["photos/test", "photos/train", "photos/val"]
    sources, shards = find_sources(["photos"])
    assert sources.roles == {
        "train": ["photos/train"],
        "validation": ["photos/val"],
        "holdout": ["photos/test"],
    }
    assert [shard.rows for shard in shards] == [4, 4, 4]
    assert [row["path"] for row in rows_of("photos/val")] == [f"val/{name}" for name in NAMES]


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("metadata.csv", "file_name,label,age\n1.png,cat,3\n./2.png,dog,4\ngone.png,cat,5\n"),
        (
            "metadata.jsonl",
            '{"file_name": "1.png", "label": "cat", "age": 3}\n{"file_name": "2.png", "label": "dog", "age": 4}\n'
            '{"file_name": "gone.png", "label": "cat", "age": 5}\n',
        ),
        ("labels.tsv", "path\tlabel\tage\n1.png\tcat\t3\n2.png\tdog\t4\ngone.png\tcat\t5\n"),
    ],
)
def test_a_table_beside_the_pictures_is_joined(table: str, text: str) -> None:
    contents = write("photos", ["1.png", "2.png", "3.png"])
    (Path("photos") / table).write_text(text)
    found = [(row["path"], row["image"]["bytes"], row["label"], row["age"]) for row in rows_of("photos")]
    assert found == [
        ("1.png", contents["1.png"], "cat", 3),
        ("2.png", contents["2.png"], "dog", 4),
        ("3.png", contents["3.png"], None, None),
        ("gone.png", None, "cat", 5),
    ]


def test_a_table_above_the_folders_of_the_roles() -> None:
    for folder in ("train", "test"):
        write(f"photos/{folder}", ["1.png", "2.png"])
    lines = ["file_name,label", "train/1.png,a", "train/2.png,b", "test/1.png,b", "test/2.png,b"]
    Path("photos/metadata.csv").write_text("\n".join(lines))
    assert [row["label"] for row in rows_of("photos/train")] == ["a", "b"]
    assert [row["label"] for row in rows_of("photos/test")] == ["b", "b"]
    run = make_run(
        ["photos/train"], {("photos/train", 0): ("relabel", "b"), ("photos/train", 1): ("remove", None)}
    )
    export_rows(run, config())
    assert (run / "cleaned_as_given/train/metadata.csv").read_text() == "file_name,label\n1.png,b\n"


def test_the_export_has_copies_in_class_folders() -> None:
    contents = write("photos", NAMES)
    lines = [f"{name},{place}\n" for place, name in enumerate(NAMES)]
    Path("photos/metadata.csv").write_text("".join(["file_name,age\n", *lines]))
    run = make_run(["photos"], {("photos", 0): ("relabel", "dog"), ("photos", 1): ("remove", None)})
    export_rows(run, config())
    folder = run / "cleaned_as_given/photos"
    wanted = {"dog/1-from-cat.png": "cat/1.png", "dog/1.png": "dog/1.png", "dog/deep/3.png": "dog/deep/3.png"}
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}
    assert files == {new: contents[old] for new, old in wanted.items()}
    assert (
        folder / "metadata.csv"
    ).read_text() == "file_name,age\ndog/1-from-cat.png,0\ndog/1.png,2\ndog/deep/3.png,3\n"
    assert pq.read_table(run / "cleaned/photos.parquet")["label"].to_pylist() == ["dog"] * 3
    assert sorted(path.name for path in Path("photos/cat").iterdir()) == ["1.png", "2.png"]


def test_a_changed_moved_or_new_picture_changes_the_fingerprint() -> None:
    write("photos", NAMES)
    audit = config(data={"train": "photos", "features": {"image": "image"}, "label": "label"})
    seen = [source_fingerprint(audit)]
    Path("photos/cat/1.png").write_bytes(picture(9))
    seen.append(source_fingerprint(audit))
    Path("photos/cat/1.png").rename("photos/dog/9.png")
    seen.append(source_fingerprint(audit))
    write("photos", ["cat/7.png"])
    assert len({*seen, source_fingerprint(audit)}) == 4
    assert open_shards([SourceFile("photos", "train")])[0].rows == 5


def test_what_is_wrong_is_named() -> None:
    Path("empty/sub").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty: a folder without Parquet files.* or pictures"):
        matches("empty", "train")
    write("photos", ["1.png"])
    Path("photos/labels.csv").write_text("picture,label\n1.png,a\n")
    with pytest.raises(
        InputError, match=r"labels\.csv: no column names the pictures \(it has picture, label\)"
    ):
        open_source("photos")
    Path("photos/labels.csv").write_text("path,label\n1.jpg,a\n")
    with pytest.raises(
        InputError, match=r"labels\.csv: none of its 1 names in 'path' is a picture in photos"
    ):
        open_source("photos")
    Path("photos/labels.csv").write_text("path,label\n1.png,a\n1.png,b\n")
    with pytest.raises(InputError, match=r"labels\.csv: the picture '1\.png' is there twice"):
        open_source("photos")
