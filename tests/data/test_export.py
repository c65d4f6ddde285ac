"""The exported dataset, held against plain Python over the rows of the source."""

from __future__ import annotations

import datetime
import hashlib
import json
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from data.exports import Decided, config, make_run, sha256
from pipeline.errors import InputError, WinnowError
from pipeline.export import export as module
from pipeline.export.export import export, export_rows, output_names
from pipeline.export.manifest import manifest_path
from pipeline.export.rewrite import difference
from pipeline.runs.directory import RunDirectory, write_json


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rich_table(rows: int) -> pa.Table:
    random = np.random.default_rng(0)
    when = datetime.datetime(2024, 3, 1, tzinfo=datetime.UTC)
    some = lambda values: [None if i % 7 == 3 else value for i, value in enumerate(values)]  # noqa: E731
    numbers = random.normal(size=rows)
    numbers[::5] = np.nan
    columns = {
        "image": pa.array(random.integers(0, 256, (rows, 12)).tolist(), pa.list_(pa.uint8(), 12)),
        "label": pa.array(random.integers(0, 3, rows), pa.int16()),
        "x": pa.array(some(numbers.tolist()), pa.float32()),
        "price": pa.array(
            some([Decimal(int(v)) / 100 for v in random.integers(0, 999, rows)]), pa.decimal128(9, 2)
        ),
        "when": pa.array(
            some([when + datetime.timedelta(hours=i) for i in range(rows)]), pa.timestamp("us", "UTC")
        ),
        "place": pa.array(some([f"p{v}" for v in random.integers(0, 4, rows)])).dictionary_encode(),
        "nested": pa.array(some([[[1.5, None], []] if i % 2 else [[float("nan")]] for i in range(rows)])),
        "record": pa.array(some([{"a": i, "b": {"c": [str(i)]}} for i in range(rows)])),
        "map": pa.array(some([[("k", i)] for i in range(rows)]), pa.map_(pa.string(), pa.int32())),
        "big": pa.array(some([f"text {i}" for i in range(rows)]), pa.large_string()),
        "flag": pa.array(some([i % 2 == 0 for i in range(rows)])),
        "count": pa.array(range(rows), pa.uint32()),
        "a.b": pa.array(range(rows), pa.int64()),
        "nothing": pa.nulls(rows, pa.int8()),
    }
    fields = [pa.field(name, column.type) for name, column in columns.items()]
    fields[0] = fields[0].with_metadata({"shape": "[3, 4]"}).with_nullable(False)
    schema = pa.schema(fields, metadata={"made_by": "a test", "classes": '["a", "b", "c"]'})
    return pa.table(list(columns.values()), schema=schema)


LAYOUTS = {
    "default": {},
    "version 1.0": {"version": "1.0", "compression": "gzip"},
    "mixed codecs": {
        "compression": {"image.list.element": "zstd", "label": "none", "x": "gzip", "a.b": "brotli"}
    },
    "own names in lists": {"use_compliant_nested_type": False, "compression": "zstd"},
    "decimals as integers": {"store_decimal_as_integer": True, "compression": "lz4"},
    "int96": {"use_deprecated_int96_timestamps": True},
    "pages": {"data_page_version": "2.0", "write_page_checksum": True, "write_page_index": True},
    "no arrow schema": {"store_schema": False, "compression": "none"},
    "no dictionary": {"use_dictionary": False, "write_statistics": False},
    "some dictionaries": {
        "use_dictionary": ["place", "big"],
        "column_encoding": {"count": "DELTA_BINARY_PACKED"},
    },
}


def write_groups(path: str, table: pa.Table, sizes: list[int], **layout) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, table.schema, **layout) as writer:
        start = 0
        for size in sizes:
            writer.write_table(table.slice(start, size), row_group_size=size)
            start += size


def simple(path: str, labels: pa.Array | list, sizes: list[int] | None = None) -> None:
    table = pa.table({"x": np.arange(len(labels), dtype=float), "label": labels})
    write_groups(path, table, sizes or [len(labels)], compression="zstd")


def python_rows(path: Path | str) -> list[dict]:
    return pq.read_table(path, partitioning=None).to_pylist()


def layout_of(path: Path | str) -> dict:
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        chunks = [
            [group.column(i) for group in groups if group.num_rows] for i in range(groups[0].num_columns)
        ]
        return {
            "version": file.metadata.format_version,
            "leaves": [(c[0].path_in_schema, c[0].physical_type, c[0].compression) for c in chunks],
            "one codec": [len({piece.compression for piece in c}) for c in chunks],
            "dictionary": [any(piece.has_dictionary_page for piece in c) for c in chunks],
            "delta": [[name for name in c[0].encodings if "DELTA" in name] for c in chunks],
            "statistics": [c[0].is_stats_set for c in chunks],
            "index": [c[0].has_offset_index for c in chunks],
            "key-value": dict(file.schema_arrow.metadata or {}),
        }


def is_protected(path: Path | str) -> bool:
    """True if a flipped bit in the middle of an uncompressed page shows; without checksums it does not."""
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(0).column(0)
        end = column.data_page_offset + column.total_compressed_size - 3
    damaged = bytearray(Path(path).read_bytes())
    damaged[end] ^= 1
    copy = Path("damaged.parquet")
    copy.write_bytes(damaged)
    with pq.ParquetFile(copy, page_checksum_verification=True) as file:
        try:
            file.read_row_group(0)
        except OSError:
            return True
    return False


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_keeps_everything_but_the_removed_rows(layout):
    sizes = [20, 1, 9, 30]
    write_groups("part.parquet", rich_table(60), sizes, **layout)
    before, rows = sha256("part.parquet"), python_rows("part.parquet")
    removed = {*range(3, 12), 20, 30, 59}  # the group of one row is removed completely
    relabelled = {2: 1, 25: 0, 58: 2}
    relabelled = {i: new if rows[i]["label"] != new else (new + 1) % 3 for i, new in relabelled.items()}
    decided: Decided = {("part.parquet", i): ("remove", None) for i in removed}
    decided |= {("part.parquet", i): ("relabel", new) for i, new in relabelled.items()}
    decided["part.parquet", 40] = ("review", None)
    run = make_run(["part.parquet"], decided)

    facts = export_rows(run, config())

    assert [facts[f"rows_{what}"] for what in ("in", "kept", "removed", "relabelled")] == [60, 48, 12, 3]
    cleaned, quarantine = run / "cleaned/part.parquet", run / "quarantine/part.parquet"
    wanted = [
        row | {"label": relabelled.get(i, row["label"])} for i, row in enumerate(rows) if i not in removed
    ]
    assert repr(python_rows(cleaned)) == repr(wanted)
    away = sorted(removed | set(relabelled))
    originals = [
        {k: v for k, v in row.items() if not k.startswith("winnow_")} for row in python_rows(quarantine)
    ]
    assert repr(originals) == repr([rows[i] for i in away])
    assert pq.read_schema(cleaned).equals(pq.read_schema("part.parquet"), check_metadata=True)
    with pq.ParquetFile("part.parquet") as one, pq.ParquetFile(cleaned) as two:
        assert two.schema.equals(one.schema)
        assert [two.metadata.row_group(i).num_rows for i in range(4)] == [11, 0, 9, 28]
    assert layout_of(cleaned) == layout_of("part.parquet")
    assert sha256("part.parquet") == before


@pytest.mark.parametrize("checksum", [True, False])
def test_keeps_page_checksums(checksum):
    table = pa.table({"x": np.random.default_rng(0).normal(size=50), "label": [0, 1] * 25})
    layout = {"compression": "none", "use_dictionary": False, "write_page_checksum": checksum}
    write_groups("a.parquet", table, [50], **layout)
    run = make_run(["a.parquet"], {("a.parquet", 7): ("remove", None)})
    export_rows(run, config())
    assert is_protected("a.parquet") is checksum
    assert is_protected(run / "cleaned/a.parquet") is checksum


LABELS = {
    "int": (pa.array([0, 1, 2, 1], pa.int8()), 2),
    "bool": (pa.array([True, False, True, False]), True),
    "float": (pa.array([0.25, 1.5, float("nan"), 0.25]), 7.125),
    "string": (pa.array(["ham", "spam", "ham", "spam"]), "ham"),
    "large string": (pa.array(["ham", "spam", "ham", "spam"], pa.large_string()), "ham"),
    "dictionary": (pa.array(["ham", "spam", "ham", "spam"]).dictionary_encode(), "ham"),
    "dictionary of integers": (pa.array([10, 20, 10, 20], pa.int16()).dictionary_encode(), 10),
    "with nulls": (pa.array(["ham", "spam", None, "spam"]), "ham"),
}


@pytest.mark.parametrize(("labels", "new"), LABELS.values(), ids=LABELS)
def test_relabels_in_the_type_of_the_source(labels, new):
    simple("a.parquet", labels, [2, 2])
    run = make_run(["a.parquet"], {("a.parquet", 3): ("relabel", new)})
    export_rows(run, config())
    cleaned = pq.read_table(run / "cleaned/a.parquet")
    assert cleaned.schema == pq.read_schema("a.parquet")
    assert repr(cleaned["label"].to_pylist()) == repr([*labels.to_pylist()[:3], new])
    (away,) = python_rows(run / "quarantine/a.parquet")
    assert away["label"] == labels.to_pylist()[3]
    assert away["winnow_suggested_label"] == str(new)


def test_an_ordered_dictionary_keeps_its_order_and_takes_a_value_that_its_row_group_lacks():
    kind = pa.dictionary(pa.int8(), pa.string(), ordered=True)
    pieces = [
        pa.DictionaryArray.from_arrays(pa.array([2, 0], pa.int8()), pa.array(names), ordered=True)
        for names in (["low", "middle", "high"], ["middle", "low", "lowest"])
    ]
    table = pa.table({"x": [1.0, 2, 3, 4], "label": pa.chunked_array(pieces, kind)})
    write_groups("a.parquet", table, [2, 2])
    run = make_run(
        ["a.parquet"], {("a.parquet", 0): ("relabel", "middle"), ("a.parquet", 2): ("relabel", "high")}
    )
    export_rows(run, config())
    with pq.ParquetFile(run / "cleaned/a.parquet") as file:
        assert file.schema_arrow.field("label").type == kind
        groups = [file.read_row_group(i)["label"].chunk(0) for i in range(2)]
    assert groups[0].dictionary.to_pylist() == ["low", "middle", "high"]
    assert [group.to_pylist() for group in groups] == [["middle", "low"], ["high", "middle"]]


def test_quarantine_has_the_evidence():
    simple("a.parquet", [0, 1, 0, 1])
    run = make_run(["a.parquet"], {("a.parquet", 1): ("remove", None), ("a.parquet", 2): ("relabel", 1)})
    export_rows(run, config())
    away = pq.read_table(run / "quarantine/a.parquet")
    assert away["winnow_decision"].to_pylist() == ["remove", "relabel"]
    assert away["winnow_reasons"].to_pylist() == [["mislabelled", "harmful"]] * 2
    assert away["winnow_suspicion"].to_pylist() == pytest.approx([2 / 3, 1 / 3])
    assert away["winnow_self_influence"].to_pylist() == pytest.approx([1 / 3, 2 / 3])
    assert away["winnow_validation_harm"].to_pylist() == [None, None]
    assert away["winnow_suggested_label"].to_pylist() == [None, "1"]
    assert away.schema.field("winnow_suggested_label").type == pa.string()
    assert away["winnow_new_label"].to_pylist() == [None, "1"]
    assert away["winnow_decided_by"].to_pylist() == ["rule", "rule"]
    assert away["winnow_proposed"].to_pylist() == [None, None]


def test_rows_that_were_not_audited_stay():
    simple("a.parquet", [0, 1, None, 1])
    run = make_run(["a.parquet"], {("a.parquet", 3): ("remove", None)}, (("a.parquet", 0), ("a.parquet", 2)))
    facts = export_rows(run, config())
    assert (facts["rows_in"], facts["rows_kept"]) == (4, 3)
    assert pq.read_table(run / "cleaned/a.parquet")["label"].to_pylist() == [0, 1, None]


def test_a_file_without_changes_is_copied_as_it_is_and_has_no_quarantine():
    simple("a.parquet", [0, 1])
    simple("b.parquet", [0, 1])
    run = make_run(["a.parquet", "b.parquet"], {("a.parquet", 0): ("remove", None)})
    export_rows(run, config())
    assert sha256(run / "cleaned/b.parquet") == sha256("b.parquet")
    assert [path.name for path in (run / "quarantine").iterdir()] == ["a.parquet"]


def test_a_file_may_lose_all_rows():
    simple("a.parquet", [0, 1], [1, 1])
    run = make_run(["a.parquet"], {("a.parquet", i): ("remove", None) for i in (0, 1)})
    export_rows(run, config())
    assert pq.read_table(run / "cleaned/a.parquet").num_rows == 0


def test_the_manifest_says_what_became_of_every_file():
    simple("a.parquet", [0, 1, 0])
    simple("b.parquet", [0, 1, 1])
    run = make_run(
        ["a.parquet", "b.parquet"], {("b.parquet", 0): ("relabel", 1), ("b.parquet", 2): ("remove", None)}
    )
    export_rows(run, config())
    manifest = json.loads((run / "cleaned.json").read_text())
    assert manifest["run_id"] == "1"
    assert manifest["config_hash"] == config().hash()
    lines = [["a.parquet#0", "keep", None], ["a.parquet#1", "keep", None], ["a.parquet#2", "keep", None]]
    lines += [["b.parquet#0", "relabel", "1"], ["b.parquet#1", "keep", None], ["b.parquet#2", "remove", None]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert manifest["decisions_hash"] == hashlib.sha256(text.encode()).hexdigest()
    assert manifest["proposed"] is False
    assert [manifest[f"rows_{what}"] for what in ("in", "kept", "removed", "relabelled")] == [6, 5, 1, 1]
    assert manifest["files"] == [
        {
            "source": name,
            "cleaned": f"cleaned/{name}",
            "quarantine": away,
            "rows_in": 3,
            "rows_kept": 3 - removed,
            "rows_removed": removed,
            "sha256_source": sha256(name),
            "sha256_cleaned": sha256(run / "cleaned" / name),
            "sha256_quarantine": sha256(run / away) if away else None,
        }
        for name, away, removed in (("a.parquet", None, 0), ("b.parquet", "quarantine/b.parquet", 1))
    ]
    assert pq.read_table(run / "cleaned").num_rows == 5  # the manifest is not in the way
    assert not (run / "exported").exists()


def test_files_of_one_name_keep_the_folders_that_tell_them_apart():
    assert output_names(["d/a/x.parquet", "d/b/x.parquet", "d/b/y.parquet"]) == [
        "a/x.parquet", "b/x.parquet", "y.parquet"
    ]  # fmt: skip
    assert output_names(["1/a/x.parquet", "2/a/x.parquet", "2/b/x.parquet"]) == [
        "1/a/x.parquet", "2/a/x.parquet", "b/x.parquet"
    ]  # fmt: skip
    here = Path.cwd().name
    assert output_names(["x.parquet", "../x.parquet"])[0] == f"{here}/x.parquet"
    assert ".." not in output_names(["x.parquet", "../x.parquet"])[1]
    for folder in "ab":
        simple(f"d/{folder}/x.parquet", [0, 1])
    run = make_run(["d/a/x.parquet", "d/b/x.parquet"], {("d/b/x.parquet", 0): ("remove", None)})
    export_rows(run, config())
    assert [len(python_rows(run / f"cleaned/{folder}/x.parquet")) for folder in "ab"] == [2, 1]


def test_a_source_that_changed_or_is_gone_is_an_error():
    simple("a.parquet", [0, 1, 0])
    run = make_run(["a.parquet"], {("a.parquet", 0): ("remove", None)})
    simple("a.parquet", [1, 1, 0])
    with pytest.raises(InputError, match=r"a\.parquet: changed since"):
        export_rows(run, config())
    Path("a.parquet").unlink()
    with pytest.raises(InputError, match=r"a\.parquet: can't be read"):
        export_rows(run, config())
    assert not (run / "cleaned").exists()


def test_the_manifest_of_an_earlier_version_is_found_and_makes_way():
    simple("a.parquet", [0, 1])
    run = make_run(["a.parquet"], {("a.parquet", 0): ("remove", None)})
    assert manifest_path(run) is None
    write_json(run / "cleaned/_manifest.json", {})
    assert manifest_path(run) == run / "cleaned/_manifest.json"
    export_rows(run, config())
    assert manifest_path(run) == run / "cleaned.json"
    assert [path.name for path in (run / "cleaned").iterdir()] == ["a.parquet"]


def test_the_quarantine_of_an_earlier_audit_is_refused_by_column():
    write_groups("a.parquet", pa.table({"label": [0, 1], "winnow_reasons": ["", ""]}), [2])
    run = make_run(["a.parquet"], {("a.parquet", 0): ("remove", None)})
    with pytest.raises(InputError, match="winnow_reasons"):
        export_rows(run, config())


def changes_in(run: RunDirectory, shard: str):
    rows = pq.read_table(run / "rows.parquet")
    keep = [
        d in ("remove", "relabel") and s == shard
        for d, s in zip(*(rows[c].to_pylist() for c in ("decision", "shard")))
    ]
    return module.changes_of(rows.filter(pa.array(keep)), "label")


@pytest.fixture
def exported() -> tuple[RunDirectory, Path, Path]:
    write_groups(
        "a.parquet", rich_table(40), [10, 30], compression="zstd"
    )  # row 12 becomes row 2 of its group
    rows = python_rows("a.parquet")
    new = (rows[12]["label"] + 1) % 3
    run = make_run(["a.parquet"], {("a.parquet", 4): ("remove", None), ("a.parquet", 12): ("relabel", new)})
    export_rows(run, config())
    return run, run / "cleaned/a.parquet", run / "quarantine/a.parquet"


def test_the_check_accepts_a_good_export(exported):
    run, cleaned, quarantine = exported
    assert difference(Path("a.parquet"), changes_in(run, "a.parquet"), cleaned, quarantine) is None


@pytest.mark.parametrize("column", rich_table(1).column_names)
@pytest.mark.parametrize(
    ("file", "place"),
    [("cleaned", 2), ("cleaned", 20), ("quarantine", 0)],
    ids=["relabelled", "kept", "quarantine"],
)
def test_the_check_finds_one_changed_value(exported, file, place, column):
    run, cleaned, quarantine = exported
    path = cleaned if file == "cleaned" else quarantine
    with pq.ParquetFile(path) as opened:
        groups = [opened.read_row_group(i) for i in range(opened.metadata.num_row_groups)]
    field = groups[-1].schema.field(column)
    values = groups[-1][column].to_pylist()
    others = [row[column] for row in python_rows("a.parquet")] + [5]
    values[place] = next(other for other in others if repr(other) != repr(values[place]))
    at = groups[-1].schema.get_field_index(column)
    groups[-1] = groups[-1].set_column(at, field, pa.array(values, field.type))
    sizes = [group.num_rows for group in groups]
    write_groups(str(path), pa.concat_tables(groups), sizes, compression="zstd")
    problem = difference(Path("a.parquet"), changes_in(run, "a.parquet"), cleaned, quarantine)
    assert problem is not None
    assert f" {column} " in problem


@pytest.mark.parametrize(
    "tamper",
    [
        lambda table: table.slice(0, table.num_rows - 1),
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        lambda table: table.take([1, 0, *range(2, table.num_rows)]),
        lambda table: table.replace_schema_metadata({"made_by": "someone"}),
        lambda table: table.select(table.column_names[::-1]),
    ],
    ids=["a row lost", "a row too many", "two rows swapped", "metadata", "columns"],
)
def test_the_check_finds_other_damage(exported, tamper):
    run, cleaned, quarantine = exported
    table = tamper(pq.read_table(cleaned))
    write_groups(str(cleaned), table, [9, table.num_rows - 9], compression="zstd")
    assert difference(Path("a.parquet"), changes_in(run, "a.parquet"), cleaned, quarantine)


def test_the_check_finds_a_changed_codec_and_merged_row_groups(exported):
    run, cleaned, quarantine = exported
    table = pq.read_table(cleaned)
    write_groups(str(cleaned), table, [9, 30], compression="snappy")
    assert "compression" in difference(Path("a.parquet"), changes_in(run, "a.parquet"), cleaned, quarantine)
    write_groups(str(cleaned), table, [39], compression="zstd")
    assert "row groups" in difference(Path("a.parquet"), changes_in(run, "a.parquet"), cleaned, quarantine)


def test_a_failed_check_leaves_neither_files_nor_manifest(monkeypatch):
    simple("a.parquet", [0, 1, 0])
    run = make_run(["a.parquet"], {("a.parquet", 0): ("remove", None)})
    real = module.rewrite

    def wrong(source, changes, cleaned, quarantine):
        real(source, changes, cleaned, quarantine)
        simple(str(cleaned), [1, 1])

    monkeypatch.setattr(module, "rewrite", wrong)
    with pytest.raises(WinnowError, match="failed their check"):
        export_rows(run, config())
    assert [path for path in run.path.rglob("*") if path.is_file() and path.parent.name != "1"] == []


def test_an_interrupted_export_goes_on_where_it_stopped(monkeypatch):
    for name in "abc":
        simple(f"{name}.parquet", [0, 1, 0])
    shards = [f"{name}.parquet" for name in "abc"]
    run = make_run(shards, {(shard, 0): ("remove", None) for shard in shards})
    written, real = [], module.rewrite

    def stops_at_c(source, changes, cleaned, quarantine):
        if source.name == "c.parquet" and len(written) == 2:
            written.append("stop")
            raise KeyboardInterrupt
        written.append(source.name)
        real(source, changes, cleaned, quarantine)

    monkeypatch.setattr(module, "rewrite", stops_at_c)
    with pytest.raises(KeyboardInterrupt):
        export_rows(run, config())
    assert not (run / "cleaned.json").exists()
    (run / "cleaned/b.parquet").write_bytes(b"damaged")
    facts = export_rows(run, config())
    assert written == ["a.parquet", "b.parquet", "stop", "b.parquet", "c.parquet"]
    assert facts["rows_removed"] == 3
    assert [len(python_rows(run / "cleaned" / shard)) for shard in shards] == [2, 2, 2]


def test_other_decisions_replace_an_export():
    simple("a.parquet", [0, 1, 0])
    run = make_run(["a.parquet"], {("a.parquet", 0): ("remove", None)})
    export_rows(run, config())
    make_run(["a.parquet"], {})
    export_rows(run, config())
    assert len(python_rows(run / "cleaned/a.parquet")) == 3
    assert not (run / "quarantine/a.parquet").exists()


@pytest.mark.parametrize(
    ("gate", "verdict", "refused"),
    [
        ("supported", "worse", True),
        ("supported", "no evidence", False),
        ("supported", "improved", False),
        ("supported", None, False),
        ("refuse-worse", "worse", True),
        ("refuse-worse", "no evidence", False),
        ("refuse-worse", None, False),
        ("require-improved", "no evidence", True),
        ("require-improved", "worse", True),
        ("require-improved", "improved", False),
        ("require-improved", "not tested", False),
        ("off", "worse", False),
    ],
)
def test_the_gate(gate, verdict, refused):
    simple("a.parquet", [0, 1])
    run = make_run(["a.parquet"], {("a.parquet", 0): ("remove", None)}, verdict=verdict)
    facts = export(SimpleNamespace(run=run, config=config(verification={"gate": gate})))
    assert facts["refused"] is refused
    assert (run / "cleaned").exists() is not refused
    if refused:
        assert facts == {"refused": True, "verdict": verdict}
