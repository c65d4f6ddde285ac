"""Another label is named with its probability, and not at all where it is unlikely."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.report.gallery import Card, galleries
from pipeline.report.html import page
from pipeline.report.suggestion import LEAST, suggestion
from pipeline.report.summary import summary


@pytest.mark.parametrize(
    ("label", "probability", "said"),
    [
        (7, 0.834, "7 (83 %)"),
        (7, LEAST, "7 (10 %)"),
        (7, 0.03, "no likely other label"),
        (7, None, "7"),
        (None, None, ""),
    ],
)
def test_a_suggestion_has_its_probability(label: Any, probability: float | None, said: str) -> None:
    assert suggestion({"suggested_label": label, "suggested_probability": probability}) == said


def test_a_row_that_is_called_mislabelled_shows_the_label_that_it_is_called_so_for() -> None:
    row = {"suggested_label": 7, "suggested_probability": 0.03, "reasons": ["outlier"]}
    assert suggestion(row) == "no likely other label"
    assert suggestion(row | {"reasons": ["mislabelled", "outlier"]}) == "7 (3 %)"


def with_low_probabilities(context: Any) -> list[Card]:
    """The cards after every suggestion has got a probability of .03."""
    path = context.run / "rows.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("suggested_probability")
    low = [None if each is None else 0.03 for each in table["suggested_probability"].to_pylist()]
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(low, pa.float64())), path)
    return [
        card for found in galleries(context.run, context.config.data, [], 24, False) for card in found.top
    ]


def test_cards_do_not_name_an_unlikely_label(images: Any) -> None:
    images.reasons = {int(row): ["outlier"] for row in np.flatnonzero(images.wrong)}
    context = images.build()
    unlikely = [card for card in with_low_probabilities(context) if card.by == "unlikely"]
    assert unlikely
    assert {(card.other, card.probability) for card in unlikely} == {("", "")}
    text = page(context.run, context.config, summary(context.run))
    assert "no likely other label" in text
    assert ' <span class="soft">3 %</span>' not in text


def test_cards_of_mislabelled_rows_never_say_that_no_other_label_is_likely(images: Any) -> None:
    context = images.build()
    suggested = [card for card in with_low_probabilities(context) if card.by != "predicted"]
    assert suggested
    assert {(card.by, card.probability) for card in suggested} == {("suggested", "3 %")}
    assert "no likely other label" not in page(context.run, context.config, summary(context.run))
