"""Shows the reconstructed triggers: picture, words or values, the proof, and whether cleaning disarmed them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.data.encoded import EncodedData
from pipeline.detection.backdoor.backdoors import read_alarms
from pipeline.detection.backdoor.pattern import Pattern
from pipeline.detection.backdoor.search_data import as_inputs, load_places
from pipeline.detection.backdoor.subject import Inputs
from pipeline.report.thumbnails import Thumbnail, encode
from pipeline.runs.directory import RunDirectory, read_json
from pipeline.text import words

VICTIMS = 3
MOST_LOOKED_AT = 200
MOST_TRIGGERS = 12


@dataclass(frozen=True)
class Trigger:
    """A trigger on the page.

    Attributes:
        target: the class that the trigger makes the model predict.
        description: of the trigger, in words.
        rows: how many rows carry it.
        values: name → words or column values of the trigger.
        on_black: the trigger alone; None if it is no picture.
        pairs: validation rows of other classes, without and with the trigger; empty if it is no picture.
        flip_rate, purity, content: the proof (docs/reference/run-directory.md).
        before, after: success on holdout rows of models trained on the data as given and on the cleaned data; None if
            unmeasured.
    """

    target: str
    description: str
    rows: int
    values: list[tuple[str, str]]
    on_black: Thumbnail | None
    pairs: list[tuple[Thumbnail, Thumbnail]]
    flip_rate: str
    purity: str
    content: str | None
    before: str | None
    after: str | None


def triggers(run: RunDirectory, alarms: list[dict[str, Any]], names: dict[Any, str]) -> list[Trigger]:
    """A trigger for each alarm of the stage `detect`, at most MOST_TRIGGERS; `names` maps labels to class names."""
    patterns = read_alarms(run.path)
    measured = read_json(run / "verification.json").get("backdoors") or [{}] * len(alarms)
    shown = []
    for facts, (target, pattern), success in list(zip(alarms, patterns, measured))[:MOST_TRIGGERS]:
        on_black, pairs = pictures(run, target, pattern)
        content = facts["content"]
        shown.append(
            Trigger(
                words.label(facts["target"], names),
                facts["description"],
                facts["rows"],
                trigger_values(facts),
                on_black,
                pairs,
                words.percent(facts["flip_rate"]),
                words.percent(facts["purity"]),
                None if content is None else f"{content:.2f} ± {facts['content_error']:.2f}",
                words.percent(max(0.0, success["before"])) if success else None,
                words.percent(max(0.0, success["after"])) if success else None,
            )
        )
    return shown


def trigger_values(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The readable part of a trigger: its words, or its columns with their values."""
    if facts["kind"] == "tokens":
        return [("words", " ".join(facts["pattern"]["tokens"]))]
    if facts["kind"] in ("column_values", "column_ranges"):
        return [(name, str(value)) for name, value in facts["pattern"].items()]
    return []


def pictures(
    run: RunDirectory, target: int, pattern: Pattern
) -> tuple[Thumbnail | None, list[tuple[Thumbnail, Thumbnail]]]:
    if pattern.input != "image" or not (run / "encoded").exists():
        return None, []
    images = _victims(EncodedData.open(run.path), target)["image"]
    pasted = pattern.paste(images)
    pairs = [(picture(one), picture(other)) for one, other in zip(images, pasted)]
    return picture(pattern.paste(np.zeros_like(images[:1]))[0]), pairs


def _victims(data: EncodedData, target: int) -> Inputs:
    """The first validation rows of other classes than the target, at most VICTIMS."""
    rows = load_places(data, "validation", np.arange(min(MOST_LOOKED_AT, data.count("validation"))))
    others = np.flatnonzero(rows.labels.numpy() != target)[:VICTIMS]
    return {kind: values[others] for kind, values in as_inputs(rows, data).items()}


def picture(pixels: np.ndarray) -> Thumbnail:
    """A picture of uint8 `[C, H, W]`; of images that do not have three channels, the first channel is shown."""
    image = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
    return encode(Image.fromarray(np.ascontiguousarray(image)))
