"""The configuration of an audit: a tree of small models, one per stage."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.config.messages import in_words
from pipeline.errors import InputError

ADAM_LEARNING_RATE = 1e-3
FIDELITY_GROUPS = 16
"""Groups of `verification.fidelity: auto`."""
FEWEST_GROUPS = 5
ONE_SEGMENT = ("source_refined", "influence")
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
    """How one set of files is cut into roles: by a column's values, or at random by fractions of the rows."""

    column: str | None = Field(None, description="a column that says the role of each row")
    train: str = Field("train", description="its value for rows to audit")
    validation: str = Field("validation", description="its value for validation rows")
    holdout: str = Field("holdout", description="its value for holdout rows")
    fractions: tuple[Share, Share, Share] | None = Field(
        None,
        description="shares of train, validation and holdout, drawn by a hash of the row's features, so that copies "
        "have one role",
    )
    seed: int = 0

    @model_validator(mode="after")
    def one_way(self) -> Split:
        if (self.column is None) == (self.fractions is None):
            raise ValueError("give either `column` or `fractions`")
        if self.fractions is not None and abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"fractions add up to {sum(self.fractions):g}, not 1")
        if self.fractions is not None and self.fractions[0] == 0:
            raise ValueError("the first of `fractions` is 0, and it is the share of the rows to audit")
        return self


FeatureKind = Literal["auto", "numeric", "boolean", "category", "list", "image", "text"]


class Data(Section):
    train: Paths = Field(description="Parquet files, folders or globs, relative to the working directory")
    validation: Paths | None = Field(None, description="its loss is what attribution explains")
    holdout: Paths | None = Field(None, description="only verification sees it; never cleaned")
    split: Split | None = Field(None, description="cuts `train` into roles when there are no separate files")
    features: dict[str, FeatureKind] = Field(min_length=1, description="column → kind")
    label: str
    task: Literal["auto", "classification", "regression", "multilabel"] = "auto"
    key: str | None = Field(None, description="a unique column; without it a row is named shard-path#row")
    weight: str | None = Field(None, description="a column of positive weights for the training loss")
    group: Columns = Field(
        [],
        description="columns that say where a row comes from (vendor, annotator, batch): who made the wrong labels",
    )
    slices: Annotated[list[str], BeforeValidator(as_list)] = Field(
        [],
        description="columns by whose values validation and holdout rows are cut: harm to each, and the proof",
    )
    missing_features: Literal["error", "impute"] = Field(
        "error", description="null, NaN or infinity in numbers: an error, or the train mean"
    )
    missing_label: Literal["error", "drop"] = "error"
    validation_is_clean: bool = Field(
        False,
        description="true only if the validation labels can be trusted: else they are taken to be as noisy as train's",
    )
    holdout_is_clean: bool | None = Field(
        None,
        description="the same of the holdout labels; by default as validation_is_clean where both are files of their "
        "own, else false",
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
    name: Literal["auto", "mlp", "convnet", "bag_of_embeddings", "custom"] = "auto"
    hidden: list[Annotated[int, Field(gt=0)]] = Field([256, 128], description="widths of the hidden layers")
    channels: list[Annotated[int, Field(gt=0)]] = Field([32, 64], description="convnet: channels per block")
    embedding: int = Field(64, gt=0, description="bag_of_embeddings: width")
    dropout: float = Field(0.0, ge=0, lt=1)
    target: str | None = Field(None, description="your own: `package.module:function` that returns a module")
    kwargs: dict[str, Any] = Field({}, description="arguments of your own function")

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
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(0.03, gt=0, description="of Adam by default 0.001")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD; beta1 of Adam")
    beta2: float = Field(0.999, gt=0, lt=1, description="of Adam")
    weight_decay: float = Field(1e-3, ge=0)
    schedule: Literal["constant", "cosine", "triangular"] = "constant"
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(64, ge=1)
    checkpoints: int = Field(6, ge=1, description="equally spaced, the last one being the end")
    tail: float = Field(
        0.25, gt=0, le=1, description="share of the last iterates at whose mean retrained models are measured"
    )
    query_tail: float = Field(
        0.5, gt=0, le=1, description="share of the last iterates at whose mean attribution takes its queries"
    )
    trajectory: str | None = Field(
        None,
        description="a folder of TrajectoryRecorder, whose checkpoints are audited instead of a training",
    )
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each label that is spread evenly over all classes"
    )
    seed: int = Field(0, ge=0)
    memory_budget: Bytes = Field(2**30, description="encoded rows that training may hold; more is streamed")
    shuffle_buffer: int = Field(65536, ge=1, description="rows, when streamed")

    @model_validator(mode="before")
    @classmethod
    def rate_of_adam(cls, given: Any) -> Any:
        """Adam's usual learning rate is another than that of SGD."""
        if isinstance(given, dict) and given.get("optimizer") in ("adam", "adamw"):
            return {"learning_rate": ADAM_LEARNING_RATE} | given
        return given


class Attribution(Section):
    method: Literal["source", "fast_source", "source_refined", "influence"] = "source"
    segments: int = Field(1, ge=1)
    refined_prior: float = Field(
        1.0, ge=0, description="source_refined: weight γ of EK-FAC beside the true Gauss–Newton matrix"
    )
    refined_rows: int = Field(1024, ge=1, description="source_refined: rows n that this matrix is taken over")
    refined_iterations: int = Field(8, ge=1, description="source_refined: conjugate gradients m")
    query_at: Literal["tail", "final"] = "tail"
    labels: Literal["sampled", "exact"] = "sampled"
    ensemble: int = Field(1, ge=1, description="trainings over which scores are averaged")
    seed: int = Field(0, ge=0)
    batch_size: int = Field(512, ge=1)
    self_influence_tolerance: float = Field(
        1e-3, ge=0, lt=1, description="error allowed for transports and Gram matrices, relative; 0 is exact"
    )
    covariance_sample: float = Field(
        1.0, gt=0, le=1, description="share of the rows that eigenvectors, not eigenvalues, are fitted on"
    )
    widest_block: int | None = Field(
        None, ge=16, description="factors wider than this are taken as block-diagonal; none: never"
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32", description="of matrix products in scoring"
    )
    group_harm: bool | Literal["auto"] = Field(
        "auto",
        description="score the harm to every class and slice too; auto: with data.slices, up to 32 groups",
    )

    @model_validator(mode="after")
    def refined_keys_of_source_refined(self) -> Attribution:
        fields = type(self).model_fields
        for key in ("refined_prior", "refined_rows", "refined_iterations"):
            if self.method != "source_refined" and getattr(self, key) != fields[key].default:
                raise ValueError(
                    f"`{key}` is used by `method: source_refined` alone, and the method is {self.method}"
                )
        return self


class Compute(Section):
    scheduler: str | None = Field(None, description="tcp://host:port of your own Dask cluster")
    workers: int | Literal["auto"] = Field("auto", description="processes on this machine")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    chunk_rows: int = Field(8192, ge=1)
    memory_per_worker: Bytes = Field(2 * 2**30, description="a worker above it is restarted")

    @model_validator(mode="after")
    def some_workers(self) -> Compute:
        if isinstance(self.workers, int) and self.workers < 1:
            raise ValueError(f"`workers` is {self.workers}; at least 1, or auto")
        return self


class Detection(Section):
    rule: Literal["budget", "ranking", "trusted", "reviewed"] = Field(
        "budget", description="how it is chosen what to remove; docs/rules.md"
    )
    halves: bool = Field(True, description="two more trainings that judge each row out of sample")
    repeats: int = Field(
        1, ge=1, description="trainings whose signals are averaged; each costs as much as the first"
    )
    max_removed: Share = Field(0.3, description="share of the rows that may be removed")
    max_removed_per_class: Share = Field(0.5, description="share of a class that may be removed")
    relabel_above: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.8,
        description="relabel instead of remove when the suggested label is at least this probable; none: never",
    )
    decisions: str | None = Field(
        None, description="a file of decisions by people (CSV or Parquet), which bind; docs/decisions.md"
    )
    panel: bool = Field(
        True, description="plain models of other families judge every row out of fold as well"
    )
    panel_folds: int = Field(5, ge=2, description="folds of the panel")
    panel_rows: int = Field(
        100000,
        ge=100,
        description="train rows that a judge of the panel is fitted on at most, a seeded sample",
    )
    trusted: str | None = Field(None, description="rule trusted: a file with the keys of right train rows")
    false_flag_rate: float = Field(0.01, gt=0, lt=1, description="rule trusted: of right rows, at most")
    answers: str | None = Field(
        None, description="rule reviewed: answers.parquet, which winnow review writes"
    )
    precision: float = Field(0.8, gt=0, lt=1, description="rule reviewed: of what is removed, at least")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="rule reviewed: of that precision")
    canaries: int = Field(0, ge=0, description="labels to flip on purpose; such a run exports nothing")
    backdoors: bool = Field(
        True, description="look for patterns that make the model predict a class (needs validation)"
    )
    neighbours: int = Field(20, ge=1)
    reference_rows: int = Field(
        100000, ge=1, description="rows that neighbours are looked for among; above 20,000 in an index"
    )
    seed: int = Field(0, ge=0)

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
    seeds: int = Field(5, ge=0, description="retrainings per arm; 0 leaves verification out")
    gate: Literal["supported", "refuse-worse", "require-improved", "off"] = Field(
        "supported", description="what may be exported, given the verdict; docs/rules.md"
    )
    arms: list[Literal["removed", "relabelled", "mixed"]] = Field(
        ["removed", "relabelled", "mixed"],
        min_length=1,
        description="ways of cleaning that are retrained; the best on validation is proved on the holdout",
    )
    fidelity: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="retrainings without random groups, which say how faithful scores are; 0: none; auto: 16 where "
        "something is to be removed or relabelled",
    )
    answers: str | None = Field(
        None,
        description="answers about holdout rows, review/holdout.parquet of a run, which winnow review writes",
    )
    sources: int = Field(
        1,
        ge=0,
        description="named sources of wrong labels without whose rows is retrained once each; 0: none",
    )
    unrolled: bool = Field(
        False, description="hold the scores against exact differentiation through the repeated training"
    )
    seed: int = Field(1, ge=0)

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
    format: Literal["parquet"] = "parquet"


class Orchestration(Section):
    """What Prefect does with a stage that fails or hangs; without Prefect a stage is tried once, with no time limit."""

    retries: int = Field(1, ge=0)
    timeout_hours: float = Field(24, gt=0)


class AuditConfig(Section):
    """A complete, validated configuration. Frozen: change it with `with_changes`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
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
        if self.attribution.segments > 1 and self.attribution.method in ONE_SEGMENT:
            raise ValueError(
                f"attribution.method {self.attribution.method} takes training as one segment, but "
                f"attribution.segments is {self.attribution.segments}"
            )
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
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)

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
