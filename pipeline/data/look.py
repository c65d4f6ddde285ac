"""A first look at Parquet files: what each column is good for, and a commented config with these choices."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from PIL import Image, UnidentifiedImageError

from pipeline.config import Data
from pipeline.data.encoders import ENCODERS
from pipeline.data.encoders.image import is_bytes, is_pixels
from pipeline.data.files import ROLES, Shard, SourceFile, matches, open_shards
from pipeline.data.labels import numbers, plain
from pipeline.data.schema import TEXT_WORDS, detect_task, image_metadata, value_type
from pipeline.errors import InputError

ROLE_WORDS = {
    "train": "train", "training": "train",
    "valid": "validation", "validation": "validation", "val": "validation", "dev": "validation",
    "test": "holdout", "testing": "holdout", "holdout": "holdout", "heldout": "holdout",
}  # fmt: skip
LABEL_NAMES = ("label", "labels", "target", "class", "y", "sentiment", "category", "outcome", "response", "rating")
LABEL_WORDS = {"label", "labels", "target", "class"}
KEY_NAMES = {"id", "key", "index", "uuid", "row_id"}
GROUP_NAMES = {"source", "group", "origin", "annotator", "worker", "subject", "site", "domain", "batch"}
SPLIT_NAMES = {"split", "subset", "fold", "partition"}
WEIGHT_NAMES = {"sample_weight", "instance_weight", "row_weight"}
TIME_NAMES = re.compile(r"(^|_)(timestamp|datetime|date)$|_at$")
TIME_TEXT = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)"
SAMPLE_GROUPS, SAMPLE_ROWS = 8, 2048  # row groups looked into, rows of each
MOST_CLASSES = 1000
MOST_GROUPS = 100
CLASSES_OF_INTEGERS = 100  # more distinct integers than that are a number to predict
UNIQUE_SHARE = 0.5  # of the values of a text column that is no text: above it they are names, not categories
KEY_ROWS = 5_000_000  # above it, a key is unique as far as the sample shows
SMALL_IMAGE = 32


@dataclass(frozen=True)
class Sources:
    """The files by role; without separate files all are train and `split` cuts them."""

    roles: dict[str, list[str]]
    split: dict[str, Any] | None
    untouched: list[str]  # files of a role that the config leaves out


@dataclass(frozen=True)
class Choice:
    """What becomes of a column: a kind of feature, or, when `kind` is None, the reason why it is left out."""

    kind: str | None
    remark: str = ""


@dataclass(frozen=True)
class Label:
    column: str
    task: str
    text: str  # classes with shares, or the range
    missing: int


@dataclass(frozen=True)
class Proposal:
    """What `look` found; `describe` says it and `to_yaml` writes it."""

    name: str
    shards: list[Shard]
    sources: Sources
    label: Label
    choices: dict[str, Choice]
    key: str | None
    group: str | None
    weight: str | None
    gaps: list[str]  # features with null, NaN or infinity in the sample
    small_grey: bool
    validation_is_clean: bool | None
