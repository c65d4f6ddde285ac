from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import WinnowError
from pipeline.report.html import MOST_BYTES, page
from pipeline.report.stage import report
from pipeline.report.summary import summary
from pipeline.runs.directory import read_json, write_json

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags in order, whether they close properly, what would be loaded, and the text that is shown."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.shown = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            if name in ("src", "srcset", "data", "poster", "action"):
                self.loads.append(value or "")
            if name == "href":
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.shown += data
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def write(builder: Any) -> str:
    context = builder.build()
    return page(context.run, context.config, summary(context.run))


@pytest.mark.parametrize("kind", ["images", "texts", "numbers"])
@pytest.mark.parametrize("verdict", ["improved", "no evidence", "worse", "not tested"])
def test_one_well_formed_file_that_loads_nothing(request: Any, kind: str, verdict: str) -> None:
    builder = request.getfixturevalue(kind)
    builder.verdict = verdict
    text = write(builder)
    found = Page(text)
    assert found.open == []
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert all(load.startswith("data:image/") for load in found.loads)
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert len(set(found.ids)) == len(found.ids)
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert len(text.encode()) < MOST_BYTES


def test_the_verdict_comes_first_with_its_interval(images: Any) -> None:
    found = Page(write(images))
    assert found.headings[0] == "Removing 21 rows (7.0\u00a0%) raises holdout accuracy."
    assert found.headings[1:] == [
        "What to do next",
        "Does cleaning help?",
        "The flagged rows",
        "Given and suggested labels",
        "Where the flags are",
        "How sure is this?",
        "How the model learned",
        "Suspicion of all rows",
        "Settings and cost",
    ]
    assert found.shown.index("+1.1 … +2.5") < found.shown.index("What to do next")
    for said in (
        "uncalibrated",
        "several times too large",
        "Precision of the flags",
        "e* = 5",
        "self-influence",
    ):
        assert said in found.shown


def test_every_card_has_its_row_key_and_hover_words(images: Any) -> None:
    text = write(images)
    assert text.count('<article class="card">') == Page(text).tags.count("article") > 20
    assert "Words for early_loss: " in text
    assert ", higher than for " in text


def test_what_stands_in_the_data_is_never_markup(texts: Any) -> None:
    bad = "<script>alert('x')</script><img src=http://evil.example/x>"
    rows = texts.table.num_rows
    labels = [f"{label}{bad}" for label in texts.table["label"].to_pylist()]
    texts.truth = [f"{label}{bad}" for label in texts.truth]
    texts.table = pa.table({"text": [bad] * rows, "label": labels, f"who{bad}": [f"group{bad}"] * rows})
    texts.data = {"group": f"who{bad}"}
    texts.reasons = {0: [f"reason{bad}"]}
    texts.keys = lambda places: [f"{row}{bad}" for row in range(len(places))]
    text = write(texts)
    found = Page(text)
    assert "script" not in found.tags
    assert all(load.startswith("data:") for load in found.loads)
    assert bad in found.shown
    assert "&lt;script&gt;" in text


def test_regression_shows_numbers_and_no_confusion(numbers: Any) -> None:
    found = Page(write(numbers))
    assert "Given and suggested labels" not in found.headings
    assert "predicted" in found.shown
    assert "holdout R²" in found.shown


def test_not_tested_has_no_chart_of_arms(images: Any) -> None:
    images.verdict = "not tested"
    found = Page(write(images))
    assert "Does cleaning help?" not in found.headings
    assert found.headings[0] == "Whether cleaning helps was not tested."
    assert "Set verification.seeds to 5" in found.shown


def test_nothing_flagged_is_said(images: Any) -> None:
    images.verdict = "not tested"
    images.decisions = dict.fromkeys(range(300), "keep")
    found = Page(write(images))
    assert "No row was flagged." in found.shown
    assert "Nothing was to be removed" in found.shown


def test_worse_advises_against_the_cleaned_data(images: Any) -> None:
    images.verdict, images.refused = "worse", True
    found = Page(write(images))
    assert "Do not train on a cleaned dataset from this run" in found.shown
    assert "cleaned/ was not written" in found.shown


def test_groups_are_listed_before_shards(texts: Any) -> None:
    found = Page(write(texts))
    assert found.shown.index("By annotator") < found.shown.index("By shard")
    assert "stands out" in found.shown


def test_a_report_of_large_noisy_pictures_stays_small(images: Any) -> None:
    side, rows = 64, images.table.num_rows
    pixels = np.random.default_rng(0).integers(0, 256, (rows, side * side * 3), dtype=np.uint8)
    column = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), side * side * 3)
    schema = pa.schema(
        [("image", column.type), ("label", pa.int64())], metadata={"image_shape": f"[{side}, {side}, 3]"}
    )
    images.table = pa.table([column, images.table["label"]], schema=schema)
    images.reasons = {row: [f"reason-{row % 6}"] for row in range(150)}
    context = images.build()
    text = page(context.run, context.config, summary(context.run))
    assert len(text.encode()) <= MOST_BYTES
    assert 40 < text.count("data:image/png") < 200
    assert "picture left out to keep this page small" in text


def test_pictures_go_first_and_cards_next_when_the_page_would_be_too_large(images: Any) -> None:
    context = images.build()
    found = summary(context.run)
    whole = page(context.run, context.config, found)
    pictures = sum(map(len, Page(whole).loads))
    without = page(context.run, context.config, found, len(whole.encode()) - pictures // 2)
    assert "data:image" not in without
    assert without.count("<article") == whole.count("<article")
    assert page(context.run, context.config, found, 45_000).count("<article") < whole.count("<article")
    with pytest.raises(WinnowError, match="more than 1\\.0 kB"):
        page(context.run, context.config, found, 1000)


def test_the_stage_writes_both_files_and_says_where(images: Any) -> None:
    context = images.build()
    facts = report(context)
    written = sorted(path.name for path in (context.run / "report").iterdir())
    assert written == ["index.html", "summary.json"]
    assert (context.run / facts["page"]).stat().st_size == facts["page_bytes"]
    assert read_json(context.run / facts["summary"]) == summary(context.run)


def test_a_second_report_is_the_same(images: Any) -> None:
    context = images.build()
    report(context)
    first = (context.run / "report/index.html").read_bytes()
    report(context)
    assert (context.run / "report/index.html").read_bytes() == first


@pytest.mark.parametrize("kind", ["float32", "bf16"])
def test_what_a_lower_precision_changes_is_said(images: Any, kind: str) -> None:
    context = images.build()
    record = context.run.record
    error = {"rows": 64, "self_influence": 0.0123, "validation_harm": None} if kind == "bf16" else None
    attribute = {"precision": kind, "precision_error": error}
    record["stages"]["attribute"] = {"seconds": 1.0, "facts": attribute}
    write_json(context.run / "record.json", record)
    text = page(context.run, context.config, summary(context.run))
    assert ("bf16; of 64 rows drawn at random it changes self-influence by 1.23 %" in text) == (
        kind == "bf16"
    )
    assert ("<td>precision</td>" in text) == (kind == "bf16")


def test_minimal_facts_still_make_a_report(images: Any) -> None:
    context = images.build()
    context.run.update_record(stages={})
    table = pq.read_table(context.run / "rows.parquet").drop_columns(["suggested_probability"])
    pq.write_table(table, context.run / "rows.parquet")
    (context.run / "signals.parquet").unlink()
    found = Page(page(context.run, context.config, summary(context.run)))
    assert "How the model learned" not in found.headings
