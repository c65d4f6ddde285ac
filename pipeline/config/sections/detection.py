"""The section `detection`: which rows are flagged, and by which rule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.sections.fields import Section, Share


class Detection(Section):
    """How rows are judged, by the evidence in docs/reference/signals.md."""

    rule: Literal["budget", "ranking", "trusted", "reviewed"] = Field(
        "budget",
        description="how it is chosen what to remove, and what is promised about it: docs/reference/rules.md",
    )
    halves: bool = Field(True, description="two more trainings that judge each row out of sample")
    repeats: int = Field(
        1,
        ge=1,
        description="how often training and attribution are made, each time with another seed; the signals are "
        "averaged, which ranks a little better and costs as much each time",
    )
    max_removed: Share = Field(
        0.3,
        description="share of the rows that may be removed or relabelled; what the cap keeps back is reviewed",
    )
    max_removed_per_class: Share = Field(
        0.5, description="share of a class that may be removed or relabelled; one row always stays"
    )
    relabel_above: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.8,
        description="relabel instead of remove when the suggested label is at least this probable; `null`: never",
    )
    decisions: str | None = Field(
        None,
        description="a file of decisions by people (CSV or Parquet), which bind: docs/reference/decisions-file.md",
    )
    panel: bool = Field(
        True,
        description="plain models of other families judge every row out of fold as well: "
        "docs/explanation/wrong-labels.md#the-panel",
    )
    panel_folds: int = Field(
        5, ge=2, description="folds of the panel; a class with fewer train rows is not judged"
    )
    panel_rows: int = Field(
        100000,
        ge=100,
        description="train rows that a judge of the panel is fitted on at most, a seeded sample; it judges all rows",
    )
    trusted: str | None = Field(
        None, description="rule `trusted`: CSV or Parquet with the keys of train rows known to be right"
    )
    false_flag_rate: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="rule `trusted`: share of the right rows that may be flagged, on average",
    )
    answers: str | None = Field(
        None,
        description="rule `reviewed`: `review/answers.parquet` of the run; `winnow review --apply` sets it",
    )
    precision: float = Field(
        0.8, gt=0, lt=1, description="rule `reviewed`: share of what is removed that has to be wrong"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="rule `reviewed`: of that precision")
    canaries: int = Field(
        0,
        ge=0,
        description="labels to flip on purpose, to see how many are found; such a run exports nothing: "
        "docs/reference/rules.md",
    )
    backdoors: bool = Field(
        True,
        description="look for patterns that make the model predict a class; needs validation rows: "
        "docs/how-to/backdoors.md",
    )
    neighbours: int = Field(20, ge=1, description="of a row whose labels vote")
    reference_rows: int = Field(
        100000,
        ge=1,
        description="rows that neighbours are looked for among, as far as 256 MiB hold their features; up to "
        "20,000 exactly, above in an approximate index",
    )
    seed: int = Field(0, ge=0, description="of the reference rows")

    @model_validator(mode="after")
    def rule_and_its_file(self) -> Detection:
        for rule, key in (("trusted", "trusted"), ("reviewed", "answers")):
            if self.rule == rule and getattr(self, key) is None:
                raise ValueError(f"`rule: {rule}` needs `{key}`, the path of a file")
            if self.rule != rule and getattr(self, key) is not None:
                raise ValueError(f"`{key}` is used by `rule: {rule}` alone, and the rule is {self.rule}")
        if self.canaries and self.rule == "reviewed":
            raise ValueError("`canaries` change the ranking that the answers are about: leave one out")
        return self
