"""The section `data`: what is audited."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.sections.evidence import EmbeddingsKey, Evidence, ProbabilitiesKey
from pipeline.config.sections.fields import Columns, Paths, Section, Share, as_list
from pipeline.features.registry import WORDS, is_kind

ROLES = ("train", "validation", "holdout")
"""What rows are for."""


class Split(Section):
    """One way of cutting `train` into roles: a column, or fractions. Leave `validation` and `holdout` out then."""

    column: str | None = Field(None, description="a column that says the role of each row")
    train: str = Field("train", description="its value for rows to audit")
    validation: str = Field("validation", description="its value for validation rows")
    holdout: str = Field("holdout", description="its value for holdout rows")
    fractions: tuple[Share, Share, Share] | None = Field(
        None,
        description="shares of train, validation and holdout, drawn by a hash of the row's features, so that "
        "copies "
        "have one role",
    )
    seed: int = Field(0, description="of the fractions")

    @model_validator(mode="after")
    def one_way(self) -> Split:
        if (self.column is None) == (self.fractions is None):
            raise ValueError("give either `column` or `fractions`")
        if self.fractions is not None and abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"fractions add up to {sum(self.fractions):g}, not 1")
        if self.fractions is not None and self.fractions[0] == 0:
            raise ValueError("the first of `fractions` is 0, and it is the share of the rows to audit")
        return self


def _known_kind(word: str) -> str:
    if not is_kind(word):
        raise PydanticCustomError("feature_kind", "not {kinds}", {"kinds": KINDS_IN_WORDS})
    return word


KINDS_IN_WORDS = f"auto, {', '.join(WORDS)}, or package.module:Class for a kind of your own"
FeatureKind = Annotated[str, AfterValidator(_known_kind)]


class Data(Section):
    """What is audited. Paths are relative to the working directory; files are never written to."""

    train: Paths = Field(
        description="files, folders or globs, relative to the working directory: docs/how-to/your-files.md"
    )
    validation: Paths | None = Field(None, description="its loss is what attribution explains")
    holdout: Paths | None = Field(None, description="only verification sees it; never cleaned")
    split: Split | None = Field(None, description="cuts `train` into roles when there are no separate files")
    features: dict[str, FeatureKind] = Field(
        min_length=1,
        description=f"column → kind: {', '.join(f'`{word}`' for word in ('auto', *WORDS))}, or `package.module:Class`: "
        "docs/reference/features.md#a-kind-of-your-own",
    )
    label: str = Field(
        description="the label column: integers, strings or booleans (classification), floats (regression), lists "
        "of strings or integers of any length (multilabel: the labels that a row has; null or an empty "
        "list is none)"
    )
    task: Literal["auto", "classification", "regression", "multilabel"] = Field(
        "auto",
        description="auto: floats are a regression, lists are multilabel, all else a classification; for "
        "multilabel: docs/explanation/wrong-labels.md#sets-of-labels",
    )
    key: str | None = Field(None, description="a unique column; without it a row is named shard-path#row")
    weight: str | None = Field(None, description="a column of positive weights for the training loss")
    group: Columns = Field(
        [],
        description="a column, or a list of columns, that say where a row comes from (vendor, annotator, batch): "
        "the report breaks flags down by them, and says which source has more wrong labels than the "
        "others",
    )
    slices: Annotated[list[str], BeforeValidator(as_list)] = Field(
        [],
        description="columns, in all files and not necessarily features, by whose values validation and holdout "
        "rows are cut into groups: docs/explanation/groups.md#classes-and-slices",
    )
    embeddings: EmbeddingsKey = Field(
        None,
        description="embeddings of the rows by a model of your own: evidence that the audited model does not see",
    )
    pred_probs: ProbabilitiesKey = Field(
        None,
        description="class probabilities by a model of your own that has not seen the row, for classifications: "
        "evidence that the audited model does not see",
    )
    missing_features: Literal["error", "impute"] = Field(
        "error", description="null, NaN or infinity in numbers: an error, or the train mean"
    )
    missing_label: Literal["error", "drop"] = Field(
        "error", description="a null or NaN label: an error, or the row takes no part and stays in the export"
    )
    validation_is_clean: bool = Field(
        False,
        description="true only if the validation labels can be trusted: harm then counts as evidence. Otherwise "
        "they are taken to be as noisy as train's, and validation rows are judged too",
    )
    holdout_is_clean: bool | None = Field(
        None,
        description="the same of the holdout labels: without it, what `validation_is_clean` says if both are files "
        "of their own, else false. Rows of a role that is not declared clean are judged and listed, "
        "and the verdict does not rest on its labels alone",
    )
    max_categories: int = Field(64, ge=1, description="the most frequent values of a category that are kept")
    max_tokens: int = Field(64, ge=1, description="tokens of a text that the model sees")
    vocabulary: int = Field(8192, ge=2, description="the most frequent tokens that are kept")

    @model_validator(mode="after")
    def roles(self) -> Data:
        if self.split is not None and (self.validation is not None or self.holdout is not None):
            raise ValueError(
                "`split` cuts `train` into roles: leave `validation` and `holdout` out, or `split`"
            )
        used = [self.label, self.key, self.weight, self.split.column if self.split else None]
        used += self.evidence_columns
        clash = sorted(set(self.features) & {name for name in used if name})
        if clash:
            raise ValueError(f"column {clash[0]!r} is a feature and has another role as well")
        if self.label in self.group or len(set(self.group)) < len(self.group):
            raise ValueError("`group` names the label, or a column twice")
        if self.label in self.slices or len(set(self.slices)) < len(self.slices):
            raise ValueError("`slices` names the label, whose classes are groups already, or a column twice")
        return self

    @model_validator(mode="after")
    def files_are_joined(self) -> Data:
        for name, each in self.evidence.items():
            if each.file is not None and self.key is None:
                raise ValueError(
                    f"`{name}.file` is joined by the keys of the rows: name their column in `key`"
                )
        if self.pred_probs is not None and self.task in ("regression", "multilabel"):
            raise ValueError(
                f"`pred_probs` are probabilities of classes, and the task is {self.task}: leave them out"
            )
        return self

    @property
    def evidence(self) -> dict[str, Evidence]:
        """What models of the user's own say, by key: `embeddings`, `pred_probs`, or neither."""
        given: dict[str, Evidence | None] = {"embeddings": self.embeddings, "pred_probs": self.pred_probs}
        return {name: each for name, each in given.items() if each is not None}

    @property
    def evidence_columns(self) -> list[str]:
        """The columns of the data that are evidence."""
        return [name for each in self.evidence.values() if each.file is None for name in each.columns_read]

    @property
    def holdout_labels_are_clean(self) -> bool:
        """`holdout_is_clean`, or what follows where it is not given."""
        if self.holdout_is_clean is not None:
            return self.holdout_is_clean
        return self.validation_is_clean and self.validation is not None and self.holdout is not None

    def labels_are_clean(self, role: str) -> bool:
        """Whether the labels of `train`, `validation` or `holdout` rows are declared right; train's never are."""
        return {"validation": self.validation_is_clean, "holdout": self.holdout_labels_are_clean}.get(
            role, False
        )
