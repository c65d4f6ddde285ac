from __future__ import annotations

import io
from base64 import b64decode
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.encode import features_of
from pipeline.data.originals import class_names, read_originals
from pipeline.report.content import TEXT_LENGTH, ContentReader, Usual
from pipeline.report.evidence import bar, evidence
from pipeline.report.gallery import Card, Gallery, choose, galleries, in_turns
from pipeline.report.signals import ShownSignal, shown_signals


def shown(**said: str) -> list[ShownSignal]:
    """Signals that count, by name, with their words."""
    return shown_signals({"signals": list(said), "words": said})


SIGNALS = shown(early_margin="the margin", early_loss="the loss")


def flagged(reasons: list[list[str]], suspicion: list[float]) -> pa.Table:
    return pa.table(
        {
            "row_key": [f"k{place}" for place in range(len(reasons))],
            "reasons": pa.array(reasons, pa.list_(pa.string())),
            "suspicion": suspicion,
            "backdoor_score": pa.array([None] * len(reasons), pa.float64()),
        }
    )


def cards_of(galleries: list[Gallery]) -> list[Card]:
    return [card for gallery in galleries for card in gallery.top + gallery.edge]


def test_the_most_and_the_least_suspicious_are_chosen() -> None:
    found = choose(flagged([["mislabelled"]] * 30, [place / 30 for place in range(30)]), 9)
    assert [(one.code, one.rows) for one in found] == [("mislabelled", 30)]
    assert found[0].top == ["k29", "k28", "k27", "k26", "k25", "k24"]
    assert found[0].edge == ["k2", "k1", "k0"]


def test_few_rows_are_all_shown_without_an_edge() -> None:
    found = choose(flagged([["outlier"]] * 3, [0.1, 0.9, 0.5]), 24)
    assert (found[0].top, found[0].edge) == (["k1", "k2", "k0"], [])


def test_no_row_is_shown_twice_and_every_reason_counts_all_its_rows() -> None:
    reasons = [["mislabelled", "harmful"], ["mislabelled"], ["harmful"], ["mislabelled"]]
    found = choose(flagged(reasons, [0.9, 0.8, 0.7, 0.6]), 24)
    assert [(one.code, one.rows) for one in found] == [("mislabelled", 3), ("harmful", 2)]
    assert found[1].top == ["k2"]


def test_backdoors_are_ordered_by_their_own_score() -> None:
    table = flagged([["backdoor"]] * 3, [0.9, 0.8, 0.7])
    table = table.set_column(3, "backdoor_score", pa.array([0.1, 0.2, 0.9]))
    assert choose(table, 24)[0].top == ["k2", "k1", "k0"]


def test_pictures_are_handed_out_in_turns() -> None:
    assert in_turns([["a", "b", "c"], [], ["d"]]) == ["a", "d", "b", "c"]


def test_cards_show_the_original_pixels_and_class_names(images: Any) -> None:
    context = images.build()
    found = galleries(context.run, context.config.data, SIGNALS, 24, pictures=True)
    rows = {row["row_key"]: row for row in pq.read_table(context.run / "rows.parquet").to_pylist()}
    names = ["left", "middle", "right"]
    cards = cards_of(found)
    assert len(cards) > 20
    for card in cards:
        row = rows[card.key]
        pixels = pq.read_table(row["shard"])["image"][row["row"]].as_py()
        assert card.content is not None
        assert card.content.picture is not None
        shown = Image.open(io.BytesIO(b64decode(card.content.picture.uri.partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(shown).reshape(-1), pixels)
        assert card.given == names[row["label"]]
        assert card.decision == row["decision"]
        if row["suggested_label"] is not None:
            assert card.other == names[row["suggested_label"]]
            assert card.probability == f"{100 * row['suggested_probability']:.0f} %"
        assert [one.label for one in card.evidence] == ["prefers other label", "hard to learn"]


def test_texts_are_shown_and_cut(texts: Any) -> None:
    at = texts.table.schema.get_field_index("text")
    long = ["word " * 200] * texts.table.num_rows
    texts.table = texts.table.set_column(at, "text", [long])
    context = texts.build()
    cards = cards_of(galleries(context.run, context.config.data, SIGNALS, 24, pictures=True))
    assert cards
    for card in cards:
        assert card.content is not None
        assert len(card.content.texts[0][1]) <= TEXT_LENGTH
        assert card.content.texts[0][1].endswith("…")


def test_the_least_usual_values_come_first(numbers: Any) -> None:
    context = numbers.build()
    rare = 40  # the town of rows 0, 40, 80 … is Nowhere
    place = [(row["shard"], row["row"]) for row in pq.read_table(context.run / "rows.parquet").to_pylist()][
        rare
    ]
    originals = read_originals([place], list(context.config.data.features))
    shown = ContentReader(originals, features_of(context.run.path), 0).read(place)
    by_name = {value.name: value for value in shown.values}
    assert set(by_name) == {"size", "age", "town"}
    assert by_name["town"].shown == "Nowhere"
    assert by_name["town"].rare


def test_regression_cards_show_what_the_model_says(numbers: Any) -> None:
    context = numbers.build()
    cards = cards_of(galleries(context.run, context.config.data, SIGNALS, 24, pictures=True))
    assert any(card.other for card in cards)
    assert {card.by for card in cards} == {"predicted"}


def test_how_usual_agrees_with_counting() -> None:
    values = [0.0, 0.0, 1.0, 2.0, 50.0, None]
    usual = Usual(pa.chunked_array([values], pa.float64()))
    assert usual.share(pa.scalar(50.0)) == pytest.approx(1 / 6)
    assert usual.share(pa.scalar(1.0)) == pytest.approx(5 / 6)
    assert usual.share(pa.scalar(None, pa.float64())) == 1.0
    assert Usual(pa.chunked_array([["a", "b", "a", "a"]])).share(pa.scalar("b")) == 0.25


def test_a_shard_that_is_gone_leaves_cards_without_content(images: Any) -> None:
    context = images.build()
    (images.folder / "train/part-001.parquet").unlink()
    (images.folder / "train/part-002.parquet").write_bytes(b"not parquet")
    cards = cards_of(galleries(context.run, context.config.data, SIGNALS, 24, pictures=True))
    gone = [card for card in cards if card.content is None]
    assert {card.key.partition("#")[0] for card in gone} == {"part-001.parquet", "part-002.parquet"}
    assert len(gone) < len(cards)


def test_pictures_stop_when_their_bytes_are_spent(images: Any) -> None:
    context = images.build()
    places = [(str(images.folder / "train/part-000.parquet"), row) for row in range(10)]
    originals = read_originals(places, ["image"])
    size = 400
    reader = ContentReader(originals, features_of(context.run.path), size)
    shown = [reader.read(place) for place in places]
    pictures = [one.picture for one in shown if one.picture is not None]
    assert 0 < len(pictures) < 10
    assert sum(len(picture.uri) for picture in pictures) <= size
    assert shown[-1].no_picture == "picture left out to keep this page small"


@pytest.mark.parametrize(("name", "sign"), [("early_margin", -1), ("early_loss", 1), ("half_confidence", -1)])
def test_bars_count_the_rows_that_are_less_suspicious(name: str, sign: int) -> None:
    (signal,) = shown(**{name: "words"})
    values = np.random.default_rng(0).integers(0, 8, 50).astype(float)
    for value in values:
        less = np.sum(sign * values < sign * value)
        ties = np.sum(values == value)
        assert bar(signal, value, np.sort(values)).share == pytest.approx((less + ties / 2) / 50)


def test_a_bar_reads_as_all_rows_for_the_most_suspicious_alone() -> None:
    values = np.arange(100_000, dtype=float)
    assert bar(SIGNALS[1], 99_999.0, values).shown == "100 %"
    assert bar(SIGNALS[1], 99_990.0, values).shown == "99.9 %"
    assert bar(SIGNALS[1], 50_000.0, values).shown == "50 %"
    (confidence,) = shown(half_confidence="what an unseen model thinks")
    said = bar(confidence, 0.0, values).words
    assert said == "What an unseen model thinks: 0, lower than for 100 % of the rows"


def test_signals_that_are_null_or_unknown_give_no_bar(tmp_path: Any) -> None:
    path = tmp_path / "signals.parquet"
    pq.write_table(pa.table({"row_key": ["a", "b"], "early_loss": [1.0, None]}), path)
    found = evidence(path, shown(early_loss="", no_such_signal=""), pa.array(["b", "a"]))
    assert [one.label for one in found["a"]] == ["hard to learn"]
    assert found["b"] == []
    assert evidence(tmp_path / "none.parquet", SIGNALS, pa.array(["a"])) == {"a": []}


def test_class_names_from_metadata() -> None:
    whole = [("label", pa.int64())]
    assert class_names(pa.schema(whole, metadata={"classes": '["ham", "spam"]'}), "label") == {
        0: "ham",
        1: "spam",
    }
    face = '{"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}'
    assert class_names(pa.schema(whole, metadata={"huggingface": face}), "label") == {0: "neg", 1: "pos"}
    assert class_names(pa.schema(whole), "label") == {}
    assert class_names(pa.schema(whole, metadata={"classes": "not json"}), "label") == {}
    assert class_names(pa.schema([("label", pa.string())], metadata={"classes": '["a"]'}), "label") == {}
