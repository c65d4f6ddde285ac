"""Announces before an audit what it can find with its config: reasons, and slices with enough rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import AuditConfig
from pipeline.data.slices import as_text, fit_slices, validation_values
from pipeline.data.survey import Survey
from pipeline.scoring.groups import FEWEST_ROWS
from pipeline.text import words
from pipeline.text.reasons import (
    AMBIGUOUS,
    BACKDOOR,
    CORRUPTED,
    DUPLICATE_CONFLICT,
    HARMFUL,
    MISLABELLED,
    OUTLIER,
    SPURIOUS,
)

FEW_IN_SLICES = 0.5
"""`check` warns if fewer than this share of the validation rows are in slices that are large enough."""


def findings(config: AuditConfig, task: str, rows: dict[str, int]) -> str:
    """The reasons that rows can get, and what further reasons require, in words."""
    found, missing = [MISLABELLED, AMBIGUOUS, OUTLIER, CORRUPTED, DUPLICATE_CONFLICT], []
    if config.data.validation_is_clean and rows["validation"]:
        found.append(HARMFUL)
    else:
        missing.append(f"{HARMFUL.code} only with data.validation_is_clean: true")
    if task == "classification" and rows["validation"]:
        if config.detection.backdoors:
            found.append(BACKDOOR)
        else:
            missing.append(f"{BACKDOOR.code} only with detection.backdoors: true")
        if config.data.slices and config.attribution.group_harm is not False:
            found.append(SPURIOUS)
        else:
            missing.append(f"{SPURIOUS.code} only with data.slices")
    return "; ".join([", ".join(reason.code for reason in found), *missing])


FOLLOWS = {
    (
        "validation",
        True,
    ): "harm to their loss counts as evidence, and their rows are not judged",
    (
        "validation",
        False,
    ): "they are judged like the train rows, and no estimate rests on what tells them from these",
    ("holdout", True): "the verdict is measured on these labels",
    (
        "holdout",
        False,
    ): "labels as given alone prove nothing: the verdict also looks at rows that no judge contradicts",
}
"""(Role, whether its labels are declared right) → what follows, in words."""


def labels(config: AuditConfig, rows: dict[str, int]) -> list[tuple[str, str]]:
    """For validation and holdout, if they have rows: what is assumed about their labels, and a warning or `ok`."""
    found = []
    for role in ("validation", "holdout"):
        if not rows[role]:
            continue
        clean = config.data.labels_are_clean(role)
        what = "declared clean" if clean else "as noisy as train"
        warned = f"warning: these rows come from the files of train; {role}_is_clean: true only if people checked them"
        status = warned if clean and config.data.split is not None else "ok"
        found.append((f"{role} {what}: {FOLLOWS[role, clean]}", status))
    return found


def slices(survey: Survey, chunk_rows: int) -> list[tuple[str, str]]:
    """For every column of `data.slices`: into which slices it is cut, and a warning or an empty string."""
    values = validation_values(survey, chunk_rows)
    return [cut(name, column) for name, column in values.items()]


def cut(name: str, column: pa.Array) -> tuple[str, str]:
    """The slices of one column and a warning or an empty string; `column` has the values of the validation rows."""
    fitted = fit_slices(name, column)
    rows = np.bincount(fitted.codes(column), minlength=len(fitted.values))[:-1]
    enough, different = rows[rows >= FEWEST_ROWS], pc.count_distinct(as_text(column)).as_py()
    said = f"{words.count(different)} different values"
    text = f"{name}: {said}, {words.plural(len(enough), 'slice')} of {FEWEST_ROWS} rows or more"
    if different == len(column) > FEWEST_ROWS and not pa.types.is_floating(column.type):
        return (
            text,
            f"warning: every row has a value of its own, as a key has; a slice needs {FEWEST_ROWS} rows",
        )
    if enough.sum() < FEW_IN_SLICES * len(column):
        return text, f"warning: most rows are in no slice, which needs {FEWEST_ROWS} rows; name fewer values"
    return text, ""
