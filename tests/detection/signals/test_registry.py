"""The list of signals: what can be added to it, and that the docs name all of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from digits_run import ROOT

from pipeline.detection.signals import ORDER, Signal, register, registry
from pipeline.detection.signals.collect import computed
from pipeline.detection.signals.registry import all_signals, signal_of
from pipeline.errors import InputError


def signal(name: str = "brightness", **more: Any) -> Signal:
    given = {"label": "dark", "words": "how bright it is", "high_is_suspicious": False}
    return Signal(name, **(given | {"of_training": lambda evidence: np.zeros(3)} | more))


@pytest.fixture(autouse=True)
def _a_list_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_SIGNALS", dict(registry._SIGNALS))


def test_a_name_is_registered_once() -> None:
    register(signal())
    with pytest.raises(InputError, match="'brightness' is registered already"):
        register(signal())
    with pytest.raises(InputError, match="'early_loss' is registered already"):
        register(signal("early_loss"))


@pytest.mark.parametrize("name", ["row_key", "brightness_2", "two words", ""])
def test_a_name_has_to_be_that_of_a_column_of_its_own(name: str) -> None:
    with pytest.raises(InputError, match="can't be the name of a signal"):
        register(signal(name))


@pytest.mark.parametrize("more", [{"of_training": None}, {"of_judges": lambda judged: judged.wrong}])
def test_a_signal_is_computed_in_one_way(more: dict[str, Callable[..., Any] | None]) -> None:
    with pytest.raises(InputError, match="needs one way to compute it"):
        register(signal(**more))


@pytest.mark.parametrize("values", [np.zeros(2), np.zeros((3, 2)), np.array(["a", "b", "c"])])
def test_values_have_to_be_one_number_for_every_row(values: np.ndarray, tmp_path: Path) -> None:
    data = SimpleNamespace(count=lambda role: {"train": 3}[role])
    evidence: Any = SimpleNamespace(data=data, path=tmp_path, task="classification")
    with pytest.raises(InputError, match=r"'brightness' gives .* for 3 train rows"):
        list(computed(evidence, [signal(of_training=lambda _: values)]))


def test_a_repeat_s_column_is_read_as_the_signal_s_own() -> None:
    assert signal_of("early_margin_2") is signal_of("early_margin") is not None
    assert signal_of("tomorrow") is None


def test_added_signals_are_told_from_those_of_the_package() -> None:
    assert registry.added_signals() == []
    register(signal())
    assert registry.added_signals() == ["brightness"]


def test_the_order_names_files_that_are_there() -> None:
    folder = ROOT / "pipeline/detection/signals"
    assert [name for name in ORDER if not (folder / f"{name}.py").is_file()] == []


def test_the_docs_name_every_signal_with_its_direction() -> None:
    page = (ROOT / "docs/reference/signals.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^\| `(\w+)` \| (high|low) \|", page, re.MULTILINE))
    assert lines == {each.name: "high" if each.high_is_suspicious else "low" for each in all_signals()}
