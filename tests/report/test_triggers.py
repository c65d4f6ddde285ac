"""What the report shows of reconstructed triggers, against the run's own files."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from poisoned_run import poisoned_config, right_labels

from pipeline.data.encoded import EncodedData
from pipeline.data.prepare import prepare
from pipeline.detection.backdoor.backdoors import alarms_path, save_patterns
from pipeline.detection.backdoor.tokens import Tokens
from pipeline.detection.backdoor.window import Window
from pipeline.report.thumbnails import Thumbnail
from pipeline.report.triggers import Trigger, triggers
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_json, write_text

FACTS = {"target": 3, "target_class": 3, "flip_rate": 0.91, "purity": 1.0, "rows": 40}


def pixels(shown: Thumbnail) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(b64decode(shown.uri.split(",")[1]))))


def shown(path: Path, sample: str, pattern: Window | Tokens, facts: dict[str, object]) -> Trigger:
    """The one trigger of a prepared run with this pattern as its alarm."""
    config = poisoned_config(sample, right_labels(sample, 60), path / "data")
    run = RunDirectory(path / "run")
    write_text(run / "config.yaml", config.to_yaml())
    prepare(AuditContext(config, run, None))  # type: ignore[arg-type]
    alarm = FACTS | facts
    save_patterns(alarms_path(run.path).with_suffix(".safetensors"), [pattern])
    write_json(alarms_path(run.path).with_suffix(".json"), {"alarms": [alarm], "notes": []})
    write_json(run / "verification.json", {"backdoors": [{"target": 3, "before": 0.875, "after": 0.0}]})
    (trigger,) = triggers(run, [alarm], {3: "three"})
    return trigger


def test_pictures_show_validation_rows_of_other_classes_and_what_pasting_makes_of_them(
    tmp_path: Path,
) -> None:
    patch = np.full((1, 2, 2), 255, dtype=np.uint8)
    facts = {"kind": "window", "description": "a patch", "content": 0.1, "content_error": 0.05}
    trigger = shown(tmp_path, "digits", Window(patch, 6, 5, False, 8.0), facts)
    validation = EncodedData.open(tmp_path / "run").load_role("validation")
    others = validation.inputs[validation.labels != 3]
    assert len(trigger.pairs) == 3
    for row, (without, pasted) in zip(others, trigger.pairs):
        expected = row[0].numpy().copy()
        assert (pixels(without) == expected).all()
        expected[6:8, 5:7] = 255
        assert (pixels(pasted) == expected).all()
    assert trigger.on_black is not None
    assert pixels(trigger.on_black).sum() == 4 * 255
    assert (trigger.target, trigger.content) == ("three", "0.10 ± 0.05")
    assert (trigger.before, trigger.after) == ("87.5 %", "0.0 %")


def test_words_are_read_out_and_need_no_picture(tmp_path: Path) -> None:
    facts = {
        "kind": "tokens",
        "description": "the word cf",
        "pattern": {"tokens": ["cf", "mn"]},
        "content": None,
        "content_error": None,
    }
    trigger = shown(tmp_path, "sms_spam", Tokens(np.array([2, 3])), facts)
    assert trigger.on_black is None
    assert trigger.values == [("words", "cf mn")]
    assert trigger.content is None
