"""The section `verification`: the proof by retraining."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.sections.fields import Section

FIDELITY_GROUPS = 16
"""Groups of `verification.fidelity: auto`."""
FEWEST_GROUPS = 5


class Verification(Section):
    """The proof by retraining."""

    seeds: int = Field(5, ge=0, description="retrainings per arm; 0 leaves verification out")
    gate: Literal["supported", "refuse-worse", "require-improved", "off"] = Field(
        "supported", description="what may be exported, given the verdict: docs/reference/rules.md#the-gate"
    )
    arms: list[Literal["removed", "relabelled", "mixed"]] = Field(
        ["removed", "relabelled", "mixed"],
        min_length=1,
        description="ways of cleaning that are retrained; no row proves an arm that it chose: "
        "docs/reference/rules.md#the-arms",
    )
    fidelity: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="retrainings without random tenths of the rows, and a quarter as many controls, which say how "
        "well the scores predict: docs/explanation/faithfulness.md#how-faithful-is-it-on-my-data; "
        "needs validation rows; 5 or more, or 0: none; auto: 16 where something is to be removed or "
        "relabelled, else none",
    )
    same_order: bool = Field(
        False,
        description="measure fidelity a second time, with the start and the row order of the main training and only "
        "the removed rows left out of their batches; this says how much of the infidelity is noise of training: "
        "docs/explanation/faithfulness.md#how-much-is-noise-of-training; as many retrainings as `fidelity` has "
        "groups, and one",
    )
    answers: str | None = Field(
        None,
        description="answers about holdout rows, `review/holdout.parquet` of a run, which `winnow review` writes: "
        "docs/how-to/review-rows.md#holdout-rows",
    )
    sources: int = Field(
        1,
        ge=0,
        description="how many of the sources that are named for wrong labels are left out of a retraining each "
        "(docs/explanation/groups.md#who-made-the-wrong-labels); needs a column in `data.group` or "
        "several shards; 0: none",
    )
    unrolled: bool = Field(
        False,
        description="hold the scores against exact differentiation through the main training, which is repeated: "
        "docs/explanation/faithfulness.md#how-faithful-is-it-on-my-data; about five trainings more",
    )
    seed: int = Field(1, ge=0, description="of the first retraining")

    @model_validator(mode="after")
    def enough_seeds(self) -> Verification:
        if self.seeds == 1:
            raise ValueError("one seed gives no interval: `seeds` is 0 (off) or at least 2")
        if self.fidelity != "auto" and 0 < self.fidelity < FEWEST_GROUPS:
            raise ValueError(
                f"`fidelity` is {self.fidelity}: a correlation takes {FEWEST_GROUPS} groups, or 0 (off)"
            )
        if self.same_order and not (self.fidelity and self.seeds):
            off = "fidelity" if self.seeds else "seeds"
            raise ValueError(f"`same_order` measures fidelity a second time, and `{off}` is 0")
        return self

    def fidelity_groups(self, flagged: bool) -> int:
        """How many retrainings without a random group are made; `flagged`: whether rows are to be changed."""
        return (FIDELITY_GROUPS if flagged else 0) if self.fidelity == "auto" else self.fidelity
