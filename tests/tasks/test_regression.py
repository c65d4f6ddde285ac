from __future__ import annotations

from pathlib import Path

import pytest
from data.small import config, write

from pipeline.data.files import SourceFile, open_shards
from pipeline.data.prepare import create_encoding
from pipeline.errors import InputError


@pytest.mark.parametrize(
    ("key", "value"), [("training.class_weights", "balanced"), ("training.label_smoothing", 0.1)]
)
def test_what_is_for_classes_alone_is_refused_before_any_work(
    tmp_path: Path, key: str, value: object
) -> None:
    path = write(tmp_path / "train.parquet", {"x": [1.0, 2.0], "label": [0.5, 1.5]})
    shards = open_shards([SourceFile(path, "train")])
    create_encoding(shards, config(train=path))
    with pytest.raises(InputError, match=f"{key} is {value}, but the target 'label' is a number"):
        create_encoding(shards, config(train=path).with_changes({key: value}))
