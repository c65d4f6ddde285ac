"""Files of many kinds with planted wrong labels, as strangers bring them.

Every function writes files into a folder and returns what `winnow init` is given and the rows whose label is wrong.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
from PIL import Image

WRONG = 0.1
"""The share of planted wrong labels."""


@dataclass(frozen=True)
class Made:
    """Files for `winnow init`.

    Attributes:
        paths: what the command is given.
        wrong: bool `[rows]`, the planted rows, in the order of the files.
        label: for `--label`; None lets init find it.
        unreadable: the rows whose features can't be read.
    """

    paths: list[str]
    wrong: np.ndarray
    label: str | None = None
    unreadable: list[int] = field(default_factory=list)


def planted(labels: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a tenth are another class, and which these are; labels are 0 … classes − 1."""
    random = np.random.RandomState(seed)
    classes = int(labels.max()) + 1
    wrong = np.zeros(len(labels), dtype=bool)
    wrong[random.permutation(len(labels))[: int(WRONG * len(labels))]] = True
    shift = random.randint(1, classes, len(labels)) if classes > 2 else 1
    return np.where(wrong, (labels + shift) % classes, labels), wrong


def numbers(rows: int, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Columns `[rows, 4]` around a centre for each class, and the true classes."""
    random = np.random.RandomState(seed)
    true = random.randint(0, classes, rows)
    centres = random.randn(classes, 4) * 3
    return centres[true] + random.randn(rows, 4), true


def table(rows: int = 300, classes: int = 2) -> tuple[pd.DataFrame, np.ndarray]:
    """Four numbers, a category that says a little, and the label as words."""
    values, true = numbers(rows, classes)
    given, wrong = planted(true)
    frame = pd.DataFrame(values.round(3), columns=["length", "width", "weight", "age"])
    frame["colour"] = np.array(["red", "green", "blue"])[(true + np.arange(rows) % 2) % 3]
    frame["label"] = np.array(["alpha", "beta", "gamma", "delta"])[given]
    return frame, wrong


WORDS = {
    "english": (
        ["bank", "money", "loan", "credit", "market", "share", "price", "profit", "rate", "stock"],
        ["match", "team", "goal", "player", "season", "coach", "league", "score", "win", "cup"],
        ["the", "a", "of", "and", "in", "to", "with", "for", "was", "is", "that", "on", "at", "by", "from"],
        " ",
    ),
    "chinese": (
        list("银行贷款市场股票价格利润"),
        list("比赛球队进球教练联赛冠军"),
        list("的了在是我有和人这中大为上"),
        "",
    ),
    "thai": (list("กขคงจฉ"), list("ทธนบปผ"), list("มยรลวสหอ"), ""),
}


def texts(language: str, rows: int = 240, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of two subjects, a third of whose words say the subject."""
    random = np.random.RandomState(seed)
    *subjects, common, space = WORDS[language]
    true = random.randint(0, 2, rows)
    found = []
    for subject in true:
        said = random.choice(subjects[subject], 5).tolist() + random.choice(common, 9).tolist()  # type: ignore[arg-type]
        random.shuffle(said)
        found.append(space.join(said))
    return found, true


def frame_of_texts(
    language: str, names: Sequence[str] = ("finance", "sport")
) -> tuple[pd.DataFrame, np.ndarray]:
    said, true = texts(language)
    given, wrong = planted(true)
    return pd.DataFrame({"review": said, "label": np.array(names)[given]}), wrong


def pictures(rows: int = 120, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Pictures `[height, width, 3]` of many sizes: bright at the top or at the bottom."""
    random = np.random.RandomState(seed)
    true = random.randint(0, 2, rows)
    found = []
    for kind in true:
        height, width = random.randint(14, 24, 2)
        picture = random.randint(0, 90, (height, width, 3))
        half = slice(0, height // 2) if kind == 0 else slice(height // 2, height)
        picture[half] += 120
        found.append(picture.astype(np.uint8))
    return found, true


def encoded(picture: np.ndarray, kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def csv_with_commas(folder: Path) -> Made:
    frame, wrong = table()
    frame.to_csv(folder / "data.csv", index=False)
    return Made([str(folder / "data.csv")], wrong)


def csv_of_pandas_with_its_index(folder: Path) -> Made:
    """Sorted by the label, so that the index gives the label away."""
    frame, wrong = table()
    order = np.argsort(frame["label"].to_numpy(), kind="stable")
    frame.iloc[order].reset_index(drop=True).to_csv(folder / "data.csv")
    return Made([str(folder / "data.csv")], wrong[order])


def csv_of_a_german_spreadsheet(folder: Path) -> Made:
    frame, wrong = table()
    frame = frame.rename(columns={"colour": "größe"})
    frame.to_csv(folder / "data.csv", index=False, sep=";", decimal=",", encoding="cp1252")
    return Made([str(folder / "data.csv")], wrong)


def csv_in_utf_16(folder: Path) -> Made:
    frame, wrong = table()
    frame.to_csv(folder / "data.csv", index=False, encoding="utf-16")
    return Made([str(folder / "data.csv")], wrong)


def tsv_that_is_zipped(folder: Path) -> Made:
    frame, wrong = table()
    frame.to_csv(folder / "data.tsv.gz", index=False, sep="\t")
    return Made([str(folder / "data.tsv.gz")], wrong)


def csv_of_texts_with_quotes_and_line_breaks(folder: Path) -> Made:
    frame, wrong = frame_of_texts("english")
    frame["review"] = [
        '<p>He said: "' + text.replace(" of ", "\n") + '"</p> 🙂, really' for text in frame["review"]
    ]
    frame.to_csv(folder / "reviews.csv", index=False)
    return Made([str(folder / "reviews.csv")], wrong)


def json_lines(folder: Path) -> Made:
    frame, wrong = frame_of_texts("english")
    frame.to_json(folder / "reviews.jsonl", orient="records", lines=True)
    return Made([str(folder / "reviews.jsonl")], wrong)


def json_lines_that_are_zipped(folder: Path) -> Made:
    frame, wrong = frame_of_texts("chinese")
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records"))
    (folder / "reviews.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return Made([str(folder / "reviews.jsonl.gz")], wrong)


def json_array(folder: Path) -> Made:
    frame, wrong = table()
    frame.to_json(folder / "data.json", orient="records")
    return Made([str(folder / "data.json")], wrong)


def feather_with_dictionaries(folder: Path) -> Made:
    frame, wrong = table()
    frame = frame.astype({"colour": "category", "label": "category"})
    pa.feather.write_feather(frame, folder / "data.feather")
    return Made([str(folder / "data.feather")], wrong)


def parquet_of_thai_texts(folder: Path) -> Made:
    frame, wrong = frame_of_texts("thai")
    pq.write_table(pa.Table.from_pandas(frame), folder / "reviews.parquet")
    return Made([str(folder / "reviews.parquet")], wrong)


def parquet_of_a_filtered_frame(folder: Path) -> Made:
    """pandas keeps the index of a frame that was sorted by the label."""
    frame, wrong = table()
    order = np.argsort(frame["label"].to_numpy(), kind="stable")
    frame = frame.assign(wrong=wrong).iloc[order].reset_index(drop=True)
    frame = frame[np.arange(len(frame)) % 20 != 3]
    left = frame.pop("wrong").to_numpy()
    frame.to_parquet(folder / "data.parquet")
    return Made([str(folder / "data.parquet")], left)


def shards_of_different_widths(folder: Path) -> Made:
    """One shard with int32 and strings, one with int64, large strings and a column of nulls alone."""
    frame, wrong = table()
    frame["age"] = (10 * frame["age"]).round().astype("int64")
    frame["note"] = [None if row >= 150 else "ab"[row % 2] for row in range(300)]
    whole = pa.Table.from_pandas(frame, preserve_index=False)
    first, second = whole.slice(0, 150), whole.slice(150)
    at = first.schema.get_field_index("age")
    first = first.set_column(at, "age", first["age"].cast(pa.int32()))
    columns = {
        "label": second["label"].cast(pa.large_string()),
        "colour": second["colour"].cast(pa.string_view()),
        "note": pa.nulls(150),
    }
    for name, column in columns.items():
        second = second.set_column(second.schema.get_field_index(name), name, column)
    (folder / "shards").mkdir()
    pq.write_table(first, folder / "shards" / "part-0.parquet")
    pq.write_table(second, folder / "shards" / "part-1.parquet")
    return Made([str(folder / "shards")], wrong)


def parquet_with_gaps_and_decimals(folder: Path) -> Made:
    """Gaps in numbers, decimals, nullable integers, a uuid and times with zones that are no features."""
    frame, wrong = table()
    random = np.random.RandomState(1)
    columns: dict[str, Any] = {name: pa.array(frame[name]) for name in ("length", "width", "colour", "label")}
    columns["weight"] = pa.array(frame["weight"].where(random.rand(300) > 0.2))
    columns["age"] = pa.array((frame["age"] * 10).round().astype("Int64").where(random.rand(300) > 0.1))
    columns["price"] = pa.array(frame["width"].round(2)).cast(pa.decimal128(12, 3))
    columns["seen"] = pa.array(np.arange(300) * 10**9).cast(pa.timestamp("ns", tz="Europe/Berlin"))
    columns["uid"] = pa.array([bytes([row % 256, row // 256] + [7] * 14) for row in range(300)], pa.uuid())
    pq.write_table(pa.table(columns), folder / "data.parquet")
    return Made([str(folder / "data.parquet")], wrong)


def hive_folders(folder: Path) -> Made:
    frame, wrong = table()
    for day, part in frame.groupby(np.arange(300) // 100):
        place = folder / "data" / f"day={day}"
        place.mkdir(parents=True)
        pq.write_table(pa.Table.from_pandas(part, preserve_index=False), place / "part-0.parquet")
    return Made([str(folder / "data")], wrong)


def parquet_of_embeddings(folder: Path) -> Made:
    values, true = numbers(300, 3)
    given, wrong = planted(true)
    wide = np.concatenate([values, np.random.RandomState(2).randn(300, 12)], 1).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(wide.ravel()), 16)
    pq.write_table(pa.table({"vector": flat, "label": pa.array(given)}), folder / "data.parquet")
    return Made([str(folder / "data.parquet")], wrong)


def parquet_of_labels_as_floats(folder: Path) -> Made:
    values, true = numbers(300, 3)
    given, wrong = planted(true)
    frame = pd.DataFrame(values, columns=list("abcd")).assign(label=given.astype(float))
    frame.to_parquet(folder / "data.parquet", index=False)
    return Made([str(folder / "data.parquet")], wrong)


def parquet_of_pixels_as_lists(folder: Path) -> Made:
    """As pandas writes pictures of one size: lists of bytes without a size."""
    random = np.random.RandomState(0)
    true = random.randint(0, 2, 240)
    pixels = random.randint(0, 90, (240, 8, 8))
    for row, kind in enumerate(true):
        pixels[row, (slice(0, 4) if kind == 0 else slice(4, 8))] += 120
    given, wrong = planted(true)
    lists = pa.array(pixels.reshape(240, 64).astype(np.uint8).tolist(), pa.list_(pa.uint8()))
    pq.write_table(pa.table({"image": lists, "label": pa.array(given)}), folder / "data.parquet")
    return Made([str(folder / "data.parquet")], wrong)


def folder_of_pictures(folder: Path) -> Made:
    """Class folders, PNG and JPEG, many sizes and modes."""
    made, true = pictures()
    given, wrong = planted(true)
    modes = ("RGB", "L", "RGB", "P")
    places = []
    for row, picture in enumerate(made):
        place = Path("photos") / ("top", "bottom")[given[row]]
        (folder / place).mkdir(parents=True, exist_ok=True)
        jpeg = row % 5 == 0
        name = place / f"{row:04d}.{'jpg' if jpeg else 'png'}"
        data = encoded(picture, "JPEG") if jpeg else encoded(picture, "PNG", modes[row % 4])
        (folder / name).write_bytes(data)
        places.append(str(name))
    order = np.argsort(places)
    return Made([str(folder / "photos")], wrong[order])


def parquet_of_pictures_some_of_which_are_broken(folder: Path) -> Made:
    made, true = pictures()
    given, wrong = planted(true)
    data: list[bytes | None] = [encoded(picture) for picture in made]
    unreadable = [0, 7, 31]
    data[0], data[7], data[31] = data[0][:40], None, b"not a picture"  # type: ignore[index]
    pq.write_table(pa.table({"photo": pa.array(data), "label": pa.array(given)}), folder / "data.parquet")
    return Made([str(folder / "data.parquet")], wrong, unreadable=unreadable)


def csv_of_paths_of_pictures(folder: Path) -> Made:
    made, true = pictures()
    given, wrong = planted(true)
    (folder / "img").mkdir()
    for row, picture in enumerate(made):
        (folder / "img" / f"{row}.png").write_bytes(encoded(picture))
    frame = pd.DataFrame({"file": [f"img/{row}.png" for row in range(len(made))], "label": given})
    frame.to_csv(folder / "photos.csv", index=False)
    return Made([str(folder / "photos.csv")], wrong)


def hugging_face_folder(folder: Path) -> Made:
    """As `save_to_disk` writes it: a stream of Arrow, class names, −1 for rows without a label."""
    frame, wrong = frame_of_texts("english", ("0", "1"))
    labels = frame["label"].astype("int64").to_numpy().copy()
    labels[5], wrong[5] = -1, False
    features = {
        "review": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["finance", "sport"], "_type": "ClassLabel"},
    }
    held = pa.table({"review": pa.array(frame["review"]), "label": pa.array(labels)})
    held = held.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    place = folder / "reviews"
    place.mkdir()
    with pa.ipc.new_stream(place / "data-00000-of-00001.arrow", held.schema) as writer:
        writer.write_table(held)
    (place / "dataset_info.json").write_text(json.dumps({"features": features}))
    (place / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    )
    return Made([str(place)], wrong)


def many_rare_classes(folder: Path) -> Made:
    """A hundred classes of six rows."""
    random = np.random.RandomState(0)
    true = np.repeat(np.arange(100), 6)
    given, wrong = planted(true)
    values = (random.randn(100, 6) * 6)[true] + random.randn(600, 6)
    frame = pd.DataFrame(values, columns=list("abcdef")).assign(label=[f"c{value}" for value in given])
    frame.to_parquet(folder / "data.parquet", index=False)
    return Made([str(folder / "data.parquet")], wrong)


LEAST: dict[Callable[[Path], Made], float] = {
    csv_with_commas: 0.8,
    csv_of_pandas_with_its_index: 0.8,
    csv_of_a_german_spreadsheet: 0.8,
    csv_in_utf_16: 0.8,
    tsv_that_is_zipped: 0.8,
    csv_of_texts_with_quotes_and_line_breaks: 0.7,
    json_lines: 0.7,
    json_lines_that_are_zipped: 0.7,
    json_array: 0.8,
    feather_with_dictionaries: 0.8,
    parquet_of_thai_texts: 0.7,
    parquet_of_a_filtered_frame: 0.8,
    shards_of_different_widths: 0.8,
    parquet_with_gaps_and_decimals: 0.7,
    hive_folders: 0.8,
    parquet_of_embeddings: 0.8,
    parquet_of_labels_as_floats: 0.8,
    parquet_of_pixels_as_lists: 0.8,
    folder_of_pictures: 0.7,
    parquet_of_pictures_some_of_which_are_broken: 0.7,
    csv_of_paths_of_pictures: 0.7,
    hugging_face_folder: 0.7,
    many_rare_classes: 0.5,
}
"""What must be found at least: the share of the planted rows among as many rows with the highest suspicion."""
