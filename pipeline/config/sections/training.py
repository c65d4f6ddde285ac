"""The section `training`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.sections.fields import Bytes, Section

ADAM_LEARNING_RATE = 1e-3


class Training(Section):
    """Torch's own optimizers: SGD and Adam with coupled weight decay, AdamW with decoupled.

    A step's loss is the sum over the batch of weight · loss, divided by `batch_size`.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = Field(
        "sgd",
        description="of all trainings: halves and retrainings too. With Adam, attribution works in its scaled "
        "coordinates, which takes whole gradients of every row and several times as long",
    )
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        0.03,
        description="the highest of the schedule; 0.001 with `adam` and `adamw`. auto: a short trial chooses it, "
        "docs/how-to/which-model.md",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of `sgd`; β₁ of `adam` and `adamw`")
    beta2: float = Field(0.999, gt=0, lt=1, description="of `adam` and `adamw`")
    weight_decay: float = Field(1e-3, ge=0, description="of all trainable parameters")
    schedule: Literal["constant", "cosine", "triangular"] = Field(
        "constant", description="triangular is highest after a fifth of the steps"
    )
    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        20, description="passes over the train rows. auto: a short trial chooses how many"
    )
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

    @property
    def known_epochs(self) -> int:
        """`epochs` as a number. Raises ValueError where the trial of the run has yet to choose it."""
        if self.epochs == "auto":
            raise ValueError("training.epochs is auto, and no trial has chosen it yet")
        return self.epochs

    @property
    def known_rate(self) -> float:
        """`learning_rate` as a number. Raises ValueError where the trial of the run has yet to choose it."""
        if self.learning_rate == "auto":
            raise ValueError("training.learning_rate is auto, and no trial has chosen it yet")
        return self.learning_rate

    @model_validator(mode="before")
    @classmethod
    def rate_of_adam(cls, given: Any) -> Any:
        """Adam's usual learning rate is another than that of SGD."""
        if isinstance(given, dict) and given.get("optimizer") in ("adam", "adamw"):
            return {"learning_rate": ADAM_LEARNING_RATE} | given
        return given
