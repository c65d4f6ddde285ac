from __future__ import annotations

from typing import Any

from pipeline.report.html import page
from pipeline.report.pairs import pair_lines
from pipeline.report.summary import summary
from pipeline.runs.directory import write_json

PAIR = {"given": 3, "suggested": 0, "rows": 1200, "estimated": 17.6, "low": 0.0, "high": 41.2, "flagged": 9}


def test_a_line_names_the_classes_and_rounds_rows() -> None:
    assert pair_lines([PAIR], {3: "dress", 0: "shirt"}) == [
        {
            "given": "dress",
            "suggested": "shirt",
            "rows": "1,200",
            "estimated": "18",
            "interval": "0 – 41",
            "flagged": "9",
        }
    ]


def test_the_page_has_the_table_even_where_no_row_is_flagged(images: Any) -> None:
    images.decisions = dict.fromkeys(range(images.table.num_rows), "keep")
    images.verdict = "not tested"
    context = images.build()
    record = context.run.record
    record["stages"]["detect"]["facts"] |= {
        "confused_pairs": [PAIR],
        "other_signals": ["forgetting"],
        "words": {"forgetting": "how often it was lost"},
    }
    write_json(context.run / "record.json", record)
    found = summary(context.run)
    assert found["confused_pairs"] == [PAIR]
    text = page(context.run, context.config, found)
    assert "Which labels are confused" in text
    assert "0 – 41" in text
    assert "How often it was lost (column forgetting); not a part of the suspicion." in text
