"""What a first look at a dataset proposes: lines for a person, and a commented config."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import ROLES
from pipeline.config.yaml_text import CommentedSection, read_yaml
from pipeline.data.files import Shard
from pipeline.features.encoder import Choice

ROLE_REMARKS = ("rows to audit", "harm is measured on its loss", "only the verification sees it")
TABLE_RECIPE = "{name: auto, hidden: [128, 64]}"
"""The section `model` for a table."""


@dataclass(frozen=True)
class Sources:
    """The files by role; without separate files all are train and `split` cuts them."""

    roles: dict[str, list[str]]
    split: dict[str, Any] | None
    untouched: list[str]  # files that the config leaves out
    in_folders: frozenset[str] = frozenset()  # files that stand for a folder or a glob, which more may join

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
    giveaways: dict[str, str] = field(
        default_factory=dict
    )  # features that alone tell the label, and how well
    notes: Sequence[str] = ()  # what was found when files of another format were read
    pred_probs: str | None = None  # a column with the class probabilities of a model of the user's own

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
        if self.label.missing:
            lines.append(("no label", f"{counted(self.label.missing, 'row')}, which take no part"))
        lines.append(("key", f"{self.key:<{width}}unique" if self.key else "none: a row is named file#row"))
        if self.weight:
            lines.append(("weight", self.weight))
        left = [f"{name} ({choice.remark})" for name, choice in self.choices.items() if not choice.kind]
        if left:
            lines.append(("left out", ", ".join(left)))
        for name, words in self.giveaways.items():
            lines.append(
                ("suspicious", f"{name} alone {words}: leave it out if it is not known before the label")
            )
        if self.gaps:
            filled = "train means stand in for what is missing, a column says where"
            lines.append(("gaps", f"{some(self.gaps)}: {filled}"))
        if self.pred_probs:
            lines.append(("evidence", f"{self.pred_probs}: class probabilities, taken to be out of sample"))
        if self.groups:
            lines.append(("group", f"{some(self.groups)}: who made the wrong labels is looked for"))
        lines.append(("roles", self.sources.describe()))
        lines.append(("labels", self.situation))
        if self.sources.untouched:
            lines.append(("not used", some(self.sources.untouched)))
        lines += [("note", note) for note in self.notes]
        return lines

    def to_yaml(self) -> str:
        """A config with a comment for every choice; `load_config` takes it as it is."""
        config = CommentedSection()
        config.note("Written by `winnow init`. Paths are relative to the folder in which winnow is run.")
        config.put("name", self.name)
        config.note()
        data = config.section("data")
        self.add_files(data)
        self.add_columns(data)
        self.add_cleanness(data)
        config.note()
        self.add_model(config)
        _add_later_stages(config)
        return config.text()

    def add_files(self, data: CommentedSection) -> None:
        for role, remark in zip(ROLES, ROLE_REMARKS):
            if role in self.sources.roles:
                data.put(role, _short_patterns(self.sources.roles[role], self.sources.in_folders), remark)
        if self.sources.split:
            data.put("split", self.sources.split, self.sources.describe(), flow=True)
        if self.sources.untouched:
            data.note(f"not used: {some(self.sources.untouched)}")
            if self.sources.split:
                data.note("(roles by files: give `validation` and `holdout` and drop `split`)")

    def add_columns(self, data: CommentedSection) -> None:
        features = data.section("features", "column: kind")
        for name, choice in self.choices.items():
            if choice.kind:
                features.put(name, choice.kind, choice.remark)
            else:
                features.note(f"left out: {name}" + (f"  # {choice.remark}" if choice.remark else ""))
        data.put("label", self.label.column, self.label.text)
        data.put("task", self.label.task)
        for choice in self.choices.values():
            for key, (value, remark) in choice.options.items() if choice.kind else ():
                data.put(key, value, remark, flow=True)
        if self.label.missing:
            data.put("missing_label", "drop", f"{counted(self.label.missing, 'row')} without a label")
        if self.gaps:
            data.put(
                "missing_features", "impute", f"by train means, and a column says where, in {some(self.gaps)}"
            )
        data.put("key", self.key, "unique" if self.key else "a row is named file#row")
        if self.weight:
            data.put("weight", self.weight, "of a row in the training loss")
        if self.pred_probs:
            data.note("By a model that was not trained on the row? If it was, take the next line out.")
            data.put("pred_probs", self.pred_probs, "evidence: docs/how-to/own-evidence.md")
        if self.groups:
            data.put(
                "group", self.groups, "who made the wrong labels: each is held against the rest", flow=True
            )

    def add_cleanness(self, data: CommentedSection) -> None:
        """Whether the labels of validation rows can be trusted, which only the person knows."""
        known = self.validation_is_clean is not None
        data.note(
            "Can the labels of the validation rows be trusted? "
            + ("As you said." if known else "Not known: say true only if somebody has checked them.")
        )
        data.note("true: harm to their loss counts as evidence, and their rows are not judged.")
        data.note("false: they are taken to be as noisy as the train rows, and are judged like these.")
        data.put("validation_is_clean", bool(self.validation_is_clean))
        if not self.validation_is_clean:
            data.note(
                "holdout_is_clean: the same question for the holdout rows; false unless you say otherwise"
            )

    def add_model(self, config: CommentedSection) -> None:
        """What a trial chooses, and a recipe that suits the number of rows."""
        rows = sum(shard.rows for shard in self.shards if shard.path in self.sources.roles["train"])
        recipes = (choice.recipe for choice in self.choices.values() if choice.kind)
        model = read_yaml(next(filter(None, recipes), TABLE_RECIPE))
        chosen = "auto: by a trial on train rows; " if model["name"] == "auto" else ""
        config.put("model", model, f"{chosen}attribution covers every parameter", flow=True)
        config.note()
        training = config.section("training")
        training.put("learning_rate", "auto", "by the same trial, or a number: of SGD with momentum")
        training.put("momentum", 0.9)
        training.put("weight_decay", 0.001)
        training.put("epochs", "auto", "by the same trial, or a number")
        training.put("batch_size", 32 if rows <= 5_000 else 64 if rows <= 200_000 else 256)
        training.put("checkpoints", 6, "equally spaced; attribution takes time in proportion")
        training.put("class_weights", "none", "balanced: rare classes weigh as much as frequent ones")
        training.put("seed", 0)
        config.note()


def _add_later_stages(config: CommentedSection) -> None:
    """What a person most likely changes in the stages after training."""
    detection = config.section("detection")
    detection.put("rule", "budget", "ranking: only rank the rows, remove nothing")
    detection.put("max_removed", 0.3, "at most this share of the rows")
    detection.put("max_removed_per_class", 0.5, "and of each class")
    detection.put(
        "relabel_above",
        0.8,
        "relabel instead of remove where another label is that probable; null: never",
    )
    config.note()
    verification = config.section("verification")
    verification.put("seeds", 5, "retrainings of each arm; 0 leaves the proof out")
    verification.put(
        "gate",
        "supported",
        "changes that no retraining supports wait for review; docs/reference/rules.md has the others",
    )


def _short_patterns(paths: list[str], in_folders: frozenset[str]) -> list[str]:
    """A glob for each folder whose files with the same end of the name are all meant, else the files.

    A single file is named, unless it is in `in_folders`.
    """
    by_folder: dict[tuple[Path, str], list[str]] = {}
    for path in paths:
        by_folder.setdefault((Path(path).parent, "".join(Path(path).suffixes[-2:])), []).append(path)
    patterns: list[str] = []
    for (folder, suffix), files in by_folder.items():
        whole = suffix and set(folder.glob(f"*{suffix}")) == set(map(Path, files))
        several = len(files) > 1 or files[0] in in_folders
        patterns += (
            [str(Path(glob.escape(str(folder)), f"*{glob.escape(suffix)}"))] if whole and several else files
        )
    return patterns


def counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def some(names: Sequence[str], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
