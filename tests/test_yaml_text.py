"""YAML as text: whatever is written is read as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.yaml_text import CommentedSection, YAMLError, read_yaml, write_yaml

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
trees = st.recursive(
    scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3)
)


@given(st.dictionaries(st.text(), trees, max_size=4))
def test_what_is_written_is_read_as_it_was(tree: dict[str, object]) -> None:
    assert read_yaml(write_yaml(tree)) == tree


@given(st.dictionaries(st.text(), st.tuples(trees, st.text(), st.booleans()), min_size=1, max_size=4))
def test_comments_change_nothing(entries: dict[str, tuple[object, str, bool]]) -> None:
    config = CommentedSection()
    config.note("first")
    below = config.section("below", "a section")
    for key, (value, remark, flow) in entries.items():
        below.note(remark)
        below.put(key, value, remark, flow)
    config.note("of what comes last")
    config.put("last", None)
    expected = {key: value for key, (value, _, _) in entries.items()}
    assert read_yaml(config.text()) == {"below": expected, "last": None}


def test_remarks_and_notes_stand_where_they_belong() -> None:
    config = CommentedSection()
    config.note("of the file")
    below = config.section("data", "of data")
    below.put("train", ["a.parquet"], "of train")
    below.note("before the kind")
    below.put("kind", {"a": 1}, flow=True)
    config.note()
    config.put("seed", 0, "of the\nseed")
    assert config.text().splitlines() == [
        "# of the file",
        "data:  # of data",
        "  train:  # of train",
        "    - a.parquet",
        "  # before the kind",
        "  kind: {a: 1}",
        "",
        "seed: 0  # of the seed",
    ]


@pytest.mark.parametrize(
    ("text", "value"), [("off", "off"), ("yes", "yes"), ("1e-3", 0.001), ("true", True), ("~", None)]
)
def test_words_are_read_as_yaml_1_2_has_them(text: str, value: object) -> None:
    assert read_yaml(f"key: {text}") == {"key": value}


def test_a_key_that_stands_twice_is_refused_at_its_place() -> None:
    with pytest.raises(YAMLError) as error:
        read_yaml("a:\n  b: 1\n  b: 2\n")
    assert error.value.problem_mark.line == 2
