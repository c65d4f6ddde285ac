"""The section `attribution`: the method and its settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.attribution.methods import METHODS, REFINED, SEGMENTS, audit_methods, methods_of
from pipeline.attribution.options import WIDEST_OUTPUTS
from pipeline.config.sections.fields import Section

KEYS_OF = {
    "segments": SEGMENTS,
    "refined_prior": REFINED,
    "refined_rows": REFINED,
    "refined_iterations": REFINED,
}
"""Keys of `attribution` that some methods ignore, and the option of `attribute` that they are."""
KEYS_OF_CURVATURE = ("covariance_sample", "widest_block", "widest_outputs")
"""Those that methods without curvature ignore."""
ABOUT_ATTRIBUTION = f"""\
SOURCE (Bae et al. 2024, arXiv 2405.12186) with EK-FAC curvature, or one of its variants and rivals.

{chr(10).join(f"- `{name}`: {METHODS[name].in_audits}" for name in audit_methods())}

A key that the method ignores may only have its default. `record.json` says what was used and what α was (`method`,
`alpha` and `refined` of the stage `factors`), and so do the report and `attribution` in `report/summary.json`. Another
method or setting begins anew at the stage `factors`; what was trained stays.
"""


def _audit_method(name: str) -> str:
    """Raises ValueError for a name that is none of `audit_methods()`."""
    if name not in audit_methods():
        raise ValueError(f"{name!r} is no method of audits: {', '.join(audit_methods())}")
    return name


class Attribution(Section):
    __doc__ = ABOUT_ATTRIBUTION

    method: Annotated[str, AfterValidator(_audit_method)] = Field("source", description="one of those above")
    segments: int = Field(
        1,
        ge=1,
        description="of training with a curvature of their own; a divisor of `training.checkpoints`. One is as "
        "faithful as three for plain training",
    )
    refined_prior: float = Field(
        1.0,
        ge=0,
        description="of a refined solve, γ ≥ 0: the weight of EK-FAC beside the Gauss–Newton matrix, which makes up "
        "for the curvature that few rows miss. 0 to .3 with all rows finds the best small sets to "
        "remove, but ranks wrong labels a little worse",
    )
    refined_rows: int = Field(
        1024,
        ge=1,
        description="of a refined solve, n: train rows that the Gauss–Newton matrix is taken over, spread evenly "
        "over the checkpoints; all, if there are fewer",
    )
    refined_iterations: int = Field(
        8,
        ge=1,
        description="of a refined solve, m: conjugate gradients, one product with the Gauss–Newton matrix each",
    )
    query_at: Literal["tail", "final"] = Field(
        "tail",
        description="where the gradient of the validation loss is taken: the mean of the last iterates, or the end",
    )
    fisher: Literal["mc", "exact"] = Field(
        "mc",
        description="how the curvature, the Fisher information, is taken: `mc` draws one label per row from the model "
        "(Monte Carlo), `exact` sums over all classes (as many backward passes)",
    )
    ensemble: int = Field(
        1,
        ge=1,
        description="trainings, each with a seed of its own, over which `self_influence`, `validation_harm` and "
        "the harm to groups are averaged; each costs a training, its factors and its scores. They lie "
        "in `repeats/`, and those that `detection.repeats` makes are shared",
    )
    seed: int = Field(
        0, ge=0, description="of the drawn labels, and of the rows that α and refined solves take"
    )
    batch_size: int = Field(512, ge=1, description="rows per forward and backward pass")
    self_influence_tolerance: float = Field(
        1e-3,
        ge=0,
        lt=1,
        description="error allowed for transports between segments and for Gram matrices of positions, relative; 0 "
        "is exact",
    )
    covariance_sample: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the rows that eigenvectors (never eigenvalues) are fitted on; a quarter spares a "
        "quarter of an MLP's factors and more of a convnet's, and moved the score that moved most by 5 "
        "% of the largest with 4,000 rows: docs/measurements/speed.md#errors",
    )
    widest_block: int | None = Field(
        None,
        ge=16,
        description="covariances wider than this are taken as block-diagonal in blocks of at most this width: the "
        "time for eigenvectors grows with the cube of the width, with blocks in proportion to it",
    )
    widest_outputs: int = Field(
        WIDEST_OUTPUTS,
        ge=1,
        description="layers with more outputs keep the curvature between their outputs as a diagonal. A matrix takes "
        "8 bytes times the square of the outputs, and its eigenvectors the cube in time. `winnow check` and "
        "`record.json` (`coverage` of the stage `factors`) name these layers",
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32",
        description="of matrix products in scoring; `tf32` is for GPUs alone. Factors are always fitted in "
        "float32. With the other two, 256 rows are scored both ways first; the largest difference "
        "stands in `record.json`, `precision_error` of the stage `attribute`",
    )
    group_harm: bool | Literal["auto"] = Field(
        "auto",
        description="score the harm to every class and slice too; auto: where `data.slices` names columns and that "
        "takes at most 32 queries (classes × values, summed over the columns). Ten queries about "
        "double the time of scoring",
    )

    @model_validator(mode="after")
    def no_key_in_vain(self) -> Attribution:
        fields = type(self).model_fields
        users = {key: methods_of(option) for key, option in KEYS_OF.items()}
        users |= dict.fromkeys(KEYS_OF_CURVATURE, tuple(name for name in METHODS if METHODS[name].fitted))
        for key, names in users.items():
            if self.method not in names and getattr(self, key) != fields[key].default:
                *others, last = [name for name in names if name in audit_methods()]
                known = f"{', '.join(others)} or {last}" if others else last
                raise ValueError(
                    f"`{key}` is used by `method: {known}` alone, and the method is {self.method}"
                )
        return self
