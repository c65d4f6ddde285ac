"""What a first look at a dataset proposes: lines for a person, and a commented config."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import ROLES
from pipeline.data.files import Shard
from pipeline.features.encoder import Choice

ROLE_REMARKS = ("rows to audit", "harm is measured on its loss", "only the verification sees it")
TABLE_RECIPE = ("{name: mlp, hidden: [128, 64]}", 0.01)
"""A model and a learning rate for a table."""
EPOCHS = ((2_000, 30), (20_000, 20), (100_000, 15), (1_000_000, 8), (math.inf, 3))
LATER_LINES = (
    "detection:",
    "  rule: budget  # ranking: only rank the rows, remove nothing",
    "  max_removed: 0.3  # at most this share of the rows",
    "  max_removed_per_class: 0.5  # and of each class",
    "  relabel_above: 0.8  # relabel instead of remove where another label is that probable; null: never",
    "",
    "verification:",
    "  seeds: 5  # retrainings of each arm; 0 leaves the proof out",
    "  gate: supported  # changes that no retraining supports wait for review; docs/reference/rules.md has the others",
)


@dataclass(frozen=True)
class Sources:
    """The files by role; without separate files all are train and `split` cuts them."""

    roles: dict[str, list[str]]
    split: dict[str, Any] | None
    untouched: list[str]  # files that the config leaves out

    def describe(self) -> str:
        if self.split is None:
            return ", ".join(counted(len(files), f"{role} file") for role, files in self.roles.items())
        if "column" in self.split:
            missing = [role for role in ROLES if role not in self.split]
            there = ", ".join(role for role in ROLES if role in self.split)
            return f"column {self.split['column']}: {there}" + (
                f"; no {', no '.join(missing)}" if missing else ""
            )
        shares = ", ".join(f"{100 * share:g} % {role}" for role, share in zip(ROLES, self.split["fractions"]))
        why = "no files for all three roles" if self.untouched else "no split column"
        return f"{why}: {shares} by a hash of the features"


@dataclass(frozen=True)
class Label:
    column: str
    task: str
    text: str  # classes with their shares, or the range
    missing: int  # rows without a label


@dataclass(frozen=True)
class Proposal:
    """What `look` found; `describe` says it and `to_yaml` writes it."""

    name: str
    shards: list[Shard]  # of all roles
    sources: Sources
    label: Label
    choices: dict[str, Choice]
    key: str | None
    weight: str | None
    gaps: list[str]  # features with null, NaN or infinity in the sample
    validation_is_clean: bool | None

    @property
    def situation(self) -> str:
        """Which labels can be trusted, in plain words."""
        if self.validation_is_clean:
            return "validation labels are clean, as you said: what train rows do to them counts"
        return "not known to be clean in any role: every row is judged, none is taken for right"

    @property
    def features(self) -> dict[str, str]:
        """Column → kind."""
        return {name: choice.kind for name, choice in self.choices.items() if choice.kind}

    @property
    def groups(self) -> list[str]:
        """Columns that say who may have made the wrong labels; they may be features as well."""
        return [name for name, choice in self.choices.items() if choice.group]

    @property
    def headline(self) -> str:
        rows, columns = sum(shard.rows for shard in self.shards), len(self.shards[0].schema)
        files = counted(len(self.shards), "file")
        return f"Looked at {files}, {counted(rows, 'row')}, {counted(columns, 'column')}."

    def describe(self) -> list[tuple[str, str]]:
        """Lines of (what, text), in the order in which a person asks."""
        kinds: dict[str, list[str]] = {}
        for name, kind in self.features.items():
            kinds.setdefault(kind, []).append(name)
        alone = [names[0] for names in kinds.values() if len(names) == 1]
        width = max(len(name) for name in [self.label.column, self.key or "", *alone]) + 2
        lines = [("label", f"{self.label.column:<{width}}{self.label.text}")]
        for kind, names in kinds.items():
            one = f"{names[0]:<{width}}{self.choices[names[0]].remark}".rstrip()
            lines.append((kind, one if len(names) == 1 else f"{len(names)} columns: {some(names)}"))
        lines.append(("key", f"{self.key:<{width}}unique" if self.key else "none: a row is named file#row"))
        if self.weight:
            lines.append(("weight", self.weight))
        left = [f"{name} ({choice.remark})" for name, choice in self.choices.items() if not choice.kind]
        if left:
            lines.append(("left out", ", ".join(left)))
        if self.gaps:
            lines.append(("gaps", f"{some(self.gaps)}: train means stand in for what is missing"))
        if self.groups:
            lines.append(("group", f"{some(self.groups)}: who made the wrong labels is looked for"))
        lines.append(("roles", self.sources.describe()))
        lines.append(("labels", self.situation))
        if self.sources.untouched:
            lines.append(("not used", some(self.sources.untouched)))
        return lines

    def to_yaml(self) -> str:
        """A config with a comment for every choice; `load_config` takes it as it is."""
        parts = [self.file_lines(), self.column_lines(), self.model_lines(), LATER_LINES]
        return "\n".join(line for part in parts for line in part) + "\n"

    def file_lines(self) -> list[str]:
        lines = [
            "# Written by `winnow init`. Paths are relative to the folder in which winnow is run.",
            f"name: {flow(self.name)}",
            "",
            "data:",
        ]
        for role, remark in zip(ROLES, ROLE_REMARKS):
            if role in self.sources.roles:
                patterns = short_patterns(self.sources.roles[role])
                lines += [f"  {role}:  # {remark}", *(f"    - {flow(pattern)}" for pattern in patterns)]
        if self.sources.split:
            lines.append(f"  split: {flow(self.sources.split)}  # {one_line(self.sources.describe())}")
        if self.sources.untouched:
            lines.append(f"  # not used: {one_line(some(self.sources.untouched))}")
            if self.sources.split:
                lines.append("  # (roles by files: give `validation` and `holdout` and drop `split`)")
        return lines

    def column_lines(self) -> list[str]:
        label = self.label
        lines = ["  features:  # column: kind"]
        for name, choice in self.choices.items():
            entry = f"{flow(name)}: {choice.kind}" if choice.kind else f"# left out: {one_line(name)}"
            lines.append(f"    {entry}" + (f"  # {one_line(choice.remark)}" if choice.remark else ""))
        lines.append(f"  label: {flow(label.column)}  # {one_line(label.text)}")
        lines.append(f"  task: {label.task}")
        if label.missing:
            lines.append(f"  missing_label: drop  # {counted(label.missing, 'row')} without a label")
        if self.gaps:
            lines.append(f"  missing_features: impute  # by train means, in {one_line(some(self.gaps))}")
        lines.append(f"  key: {flow(self.key)}  # " + ("unique" if self.key else "a row is named file#row"))
        if self.weight:
            lines.append(f"  weight: {flow(self.weight)}  # of a row in the training loss")
        if self.groups:
            lines.append(
                f"  group: {flow(self.groups)}  # who made the wrong labels: each is held against the rest"
            )
        known = self.validation_is_clean is not None
        lines += [
            "  # Can the labels of the validation rows be trusted? "
            + ("As you said." if known else "Not known: say true only if somebody has checked them."),
            "  # true: harm to their loss counts as evidence, and their rows are not judged.",
            "  # false: they are taken to be as noisy as the train rows, and are judged like these.",
            f"  validation_is_clean: {str(bool(self.validation_is_clean)).lower()}",
        ]
        if not self.validation_is_clean:
            lines.append(
                "  # holdout_is_clean: the same question for the holdout rows; false unless you say otherwise"
            )
        return [*lines, ""]

    def model_lines(self) -> list[str]:
        """A model and a recipe that suit kind and size: a start, not the best that there is."""
        rows = sum(shard.rows for shard in self.shards if shard.path in self.sources.roles["train"])
        recipes = (choice.recipe for choice in self.choices.values() if choice.kind)
        model, rate = next(filter(None, recipes), TABLE_RECIPE)
        epochs = next(epochs for most, epochs in EPOCHS if rows <= most)
        return [
            f"model: {model}  # attribution covers every parameter of it",
            "",
            "training:",
            f"  learning_rate: {rate}  # of SGD with momentum; lower it if the loss jumps",
            "  momentum: 0.9",
            "  weight_decay: 0.001",
            f"  epochs: {epochs}  # until accuracy on held-out rows levels off",
            f"  batch_size: {32 if rows <= 5_000 else 64 if rows <= 200_000 else 256}",
            "  checkpoints: 6  # equally spaced; attribution takes time in proportion",
            "  class_weights: none  # balanced: rare classes weigh as much as frequent ones",
            "  seed: 0",
            "",
        ]


def short_patterns(paths: list[str]) -> list[str]:
    """A glob for each folder whose Parquet files are all meant, else the files."""
    by_folder: dict[Path, list[str]] = {}
    for path in paths:
        by_folder.setdefault(Path(path).parent, []).append(path)
    patterns: list[str] = []
    for folder, files in by_folder.items():
        whole = set(folder.glob("*.parquet")) == set(map(Path, files))
        patterns += [str(folder / "*.parquet")] if whole and len(files) > 1 else files
    return patterns


def counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def some(names: Sequence[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def one_line(text: str) -> str:
    return " ".join(text.split())


def flow(value: Any) -> str:
    """A value as YAML on one line, quoted where it must be."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False)
    text = text.removesuffix("\n").removesuffix("\n...")
    return json.dumps(value, ensure_ascii=False) if "\n" in text else text
