"""The configuration of an audit: a tree of small models, one per stage."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.attribution.methods import METHODS, REFINED, SEGMENTS, audit_methods, methods_of
from pipeline.config.messages import in_words
from pipeline.config.yaml_text import write_yaml
from pipeline.errors import InputError
from pipeline.features.registry import WORDS, is_kind

ROLES = ("train", "validation", "holdout")
"""What rows are for."""
ADAM_LEARNING_RATE = 1e-3
FIDELITY_GROUPS = 16
"""Groups of `verification.fidelity: auto`."""
FEWEST_GROUPS = 5
KEYS_OF = {
    "segments": SEGMENTS,
    "refined_prior": REFINED,
    "refined_rows": REFINED,
    "refined_iterations": REFINED,
}
"""Keys of `attribution` that some methods ignore, and the option of `attribute` that they are."""
KEYS_OF_CURVATURE = ("covariance_sample", "widest_block")
"""Those that methods without curvature ignore."""
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_bytes(value: Any) -> Any:
    """`"2 GiB"` → 2147483648; numbers pass unchanged."""
    if not isinstance(value, str):
        return value
    number = value.rstrip("BKMGi ").strip()
    unit = value[len(number) :].strip() or "B"
    try:
        return int(float(number) * UNITS[unit])
    except (KeyError, ValueError):
        raise ValueError(f"not a size: {value!r} (write 512 MiB or 2 GiB)") from None


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def as_columns(value: Any) -> Any:
    return [] if value is None else as_list(value)


Columns = Annotated[list[str], BeforeValidator(as_columns)]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Paths = Annotated[list[str], BeforeValidator(as_list), Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


ABOUT_ATTRIBUTION = f"""\
SOURCE (Bae et al. 2024, arXiv 2405.12186) with EK-FAC curvature, or one of its variants and rivals.

{chr(10).join(f"- `{name}`: {METHODS[name].in_audits}" for name in audit_methods())}

A key that the method ignores may only have its default. `record.json` says what was used and what α was (`method`,
`alpha` and `refined` of the stage `factors`), and so do the report and `attribution` in `report/summary.json`. Another
method or setting begins anew at the stage `factors`; what was trained stays.
"""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind in (int, float):
            raise ValueError(f"{str(value).lower()} is not a number")
        return value


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


def known_kind(word: str) -> str:
    if not is_kind(word):
        raise PydanticCustomError("feature_kind", "not {kinds}", {"kinds": KINDS_IN_WORDS})
    return word


KINDS_IN_WORDS = f"auto, {', '.join(WORDS)}, or package.module:Class for a kind of your own"
FeatureKind = Annotated[str, AfterValidator(known_kind)]


class Data(Section):
    """What is audited. Paths are relative to the working directory; files are never written to."""

    train: Paths = Field(description="Parquet files, folders or globs, relative to the working directory")
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
        clash = sorted(set(self.features) & {name for name in used if name})
        if clash:
            raise ValueError(f"column {clash[0]!r} is a feature and has another role as well")
        if self.label in self.group or len(set(self.group)) < len(self.group):
            raise ValueError("`group` names the label, or a column twice")
        if self.label in self.slices or len(set(self.slices)) < len(self.slices):
            raise ValueError("`slices` names the label, whose classes are groups already, or a column twice")
        return self

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


class Model(Section):
    """`auto` is bag_of_embeddings for text and mlp for everything else."""

    name: Literal["auto", "mlp", "convnet", "bag_of_embeddings", "custom"] = Field(
        "auto", description="`custom` goes with `target`"
    )
    hidden: list[Annotated[int, Field(gt=0)]] = Field([256, 128], description="widths of the hidden layers")
    channels: list[Annotated[int, Field(gt=0)]] = Field([32, 64], description="convnet: channels per block")
    embedding: int = Field(64, gt=0, description="bag_of_embeddings: width")
    dropout: float = Field(0.0, ge=0, lt=1, description="between the hidden layers")
    target: str | None = Field(None, description="your own: `package.module:function` that returns a module")
    kwargs: dict[str, Any] = Field(
        {},
        description="arguments of your own function; it gets `encoding` too if it has a parameter of that name: "
        "docs/how-to/own-model.md",
    )

    @model_validator(mode="after")
    def own(self) -> Model:
        if self.name == "custom" and self.target is None:
            raise ValueError("`name: custom` needs `target: package.module:function`")
        if self.target is not None and ":" not in self.target:
            raise ValueError(f"`target` is {self.target!r}; write package.module:function")
        if self.kwargs and self.target is None:
            raise ValueError("`kwargs` are for your own function, and there is no `target`")
        return self


class Training(Section):
    """Torch's own optimizers: SGD and Adam with coupled weight decay, AdamW with decoupled.

    A step's loss is the sum over the batch of weight · loss, divided by `batch_size`.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = Field(
        "sgd",
        description="of all trainings: halves and retrainings too. With Adam, attribution works in its scaled "
        "coordinates, which takes whole gradients of every row and several times as long",
    )
    learning_rate: float = Field(
        0.03, gt=0, description="the highest of the schedule; 0.001 with `adam` and `adamw`"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of `sgd`; β₁ of `adam` and `adamw`")
    beta2: float = Field(0.999, gt=0, lt=1, description="of `adam` and `adamw`")
    weight_decay: float = Field(1e-3, ge=0, description="of all trainable parameters")
    schedule: Literal["constant", "cosine", "triangular"] = Field(
        "constant", description="triangular is highest after a fifth of the steps"
    )
    epochs: int = Field(20, ge=1, description="passes over the train rows")
    batch_size: int = Field(64, ge=1, description="rows")
    checkpoints: int = Field(6, ge=1, description="equally spaced, the last one being the end")
    tail: float = Field(
        0.25,
        gt=0,
        le=1,
        description="share of the last iterates at whose mean retrained models are measured: less noisy than the "
        "end; the longer, the less wrong labels hurt the models that are compared",
    )
    query_tail: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the last iterates at whose mean attribution takes its queries "
        "(`attribution.query_at: tail`); measured: docs/measurements/faithfulness.md#what-it-says",
    )
    trajectory: str | None = Field(
        None,
        description="a folder that `TrajectoryRecorder` wrote in a training loop of your own; its checkpoints are "
        "audited and nothing is trained for them: "
        "docs/how-to/own-model.md#checkpoints-recorded-elsewhere",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: every class has the same total weight"
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of each label that is spread evenly over all classes. Training, curvature, rows' "
        "gradients and self-influence use the smoothed loss; what is measured, and the validation loss "
        "that harm is about, is the plain one",
    )
    seed: int = Field(0, ge=0, description="initial weights, order of the rows, halves")
    memory_budget: Bytes = Field(2**30, description="encoded rows that training may hold; more is streamed")
    shuffle_buffer: int = Field(65536, ge=1, description="rows, when streamed")

    @model_validator(mode="before")
    @classmethod
    def rate_of_adam(cls, given: Any) -> Any:
        """Adam's usual learning rate is another than that of SGD."""
        if isinstance(given, dict) and given.get("optimizer") in ("adam", "adamw"):
            return {"learning_rate": ADAM_LEARNING_RATE} | given
        return given


def audit_method(name: str) -> str:
    """Raises ValueError for a name that is none of `audit_methods()`."""
    if name not in audit_methods():
        raise ValueError(f"{name!r} is no method of audits: {', '.join(audit_methods())}")
    return name


class Attribution(Section):
    __doc__ = ABOUT_ATTRIBUTION

    method: Annotated[str, AfterValidator(audit_method)] = Field("source", description="one of those above")
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
    labels: Literal["sampled", "exact"] = Field(
        "sampled",
        description="of the curvature: one drawn from the model per row, or the exact sum over classes (as many "
        "backward passes)",
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


class Compute(Section):
    """Where the work is done. Results do not depend on workers, chunks or attribution batches."""

    scheduler: str | None = Field(
        None, description="tcp://host:port of your own Dask cluster: docs/how-to/cluster.md"
    )
    workers: int | Literal["auto"] = Field(
        "auto", description="processes on this machine; auto: one per core, or per GPU"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one")
    chunk_rows: int = Field(8192, ge=1, description="the most rows of one task")
    memory_per_worker: Bytes = Field(2 * 2**30, description="a worker above it is restarted")

    @model_validator(mode="after")
    def some_workers(self) -> Compute:
        if isinstance(self.workers, int) and self.workers < 1:
            raise ValueError(f"`workers` is {self.workers}; at least 1, or auto")
        return self


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
        return self

    def fidelity_groups(self, flagged: bool) -> int:
        """How many retrainings without a random group are made; `flagged`: whether rows are to be changed."""
        return (FIDELITY_GROUPS if flagged else 0) if self.fidelity == "auto" else self.fidelity


class Export(Section):
    """How the cleaned dataset is written."""

    format: Literal["parquet"] = Field("parquet", description="only `parquet` so far")


class Orchestration(Section):
    """What Prefect does with a stage that fails or hangs.

    Without Prefect (docs/how-to/install.md#extras) a stage is tried once and has no time limit.
    """

    retries: int = Field(1, ge=0, description="of a stage that fails for other reasons than its input")
    timeout_hours: float = Field(24, gt=0, description="of one stage")


class AuditConfig(Section):
    """A complete, validated configuration. Frozen: change it with `with_changes`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the folder `runs/<name>/`")
    data: Data
    model: Model = Model()
    training: Training = Training()
    attribution: Attribution = Attribution()
    compute: Compute = Compute()
    detection: Detection = Detection()
    verification: Verification = Verification()
    export: Export = Export()
    orchestration: Orchestration = Orchestration()

    @model_validator(mode="after")
    def possible(self) -> AuditConfig:
        if self.verification.unrolled:
            self.check_unrolled()
        if self.training.trajectory is not None:
            return self.with_a_trajectory()
        if self.attribution.segments > self.training.checkpoints:
            raise ValueError(
                f"attribution.segments is {self.attribution.segments} but training.checkpoints is "
                f"{self.training.checkpoints}: a segment needs at least one checkpoint"
            )
        if self.training.checkpoints % self.attribution.segments:
            raise ValueError(
                f"training.checkpoints ({self.training.checkpoints}) is not a multiple of "
                f"attribution.segments ({self.attribution.segments})"
            )
        return self

    def check_unrolled(self) -> None:
        """It repeats a training of the audit's own, and differentiates the validation loss."""
        if self.training.trajectory is not None:
            raise ValueError(
                "`verification.unrolled` repeats the training, and training.trajectory is one made elsewhere"
            )
        split = self.data.split
        if self.data.validation is None and (split is None or (split.fractions and not split.fractions[1])):
            raise ValueError(
                "`verification.unrolled` differentiates the validation loss, and there are no validation rows"
            )

    def with_a_trajectory(self) -> AuditConfig:
        """Its checkpoints are counted when it is read; other trainings would not be the one that it is of."""
        if self.attribution.ensemble > 1 or self.detection.repeats > 1:
            key = "attribution.ensemble" if self.attribution.ensemble > 1 else "detection.repeats"
            raise ValueError(
                f"`{key}` needs trainings of its own, and training.trajectory is one made elsewhere"
            )
        return self

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def hash(self) -> str:
        return digest(self.as_dict())

    def to_yaml(self) -> str:
        return write_yaml(self.as_dict())

    def with_changes(self, changes: dict[str, Any]) -> AuditConfig:
        """A copy with `{"detection.max_removed": 0.1}` applied and validated."""
        tree = self.as_dict()
        for key, value in changes.items():
            set_key(tree, key, value)
        return validate(tree, "the changed config")


def digest(value: Any) -> str:
    """A short stable hash of anything JSON can hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def set_key(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b=c` in a nested dict; an unknown section is left for validation to name."""
    *sections, last = dotted.split(".")
    for section in sections:
        found = tree.setdefault(section, {})
        if not isinstance(found, dict):
            raise InputError(f"--set {dotted}: {section} is not a section", "Write --set section.key=value.")
        tree = found
    tree[last] = value


def validate(tree: dict[str, Any], where: str) -> AuditConfig:
    try:
        return AuditConfig.model_validate(tree)
    except ValidationError as error:
        raise in_words(error, AuditConfig, where) from None
