"""The whole config of an audit: all sections, and what must hold between them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field, ValidationError, model_validator

from pipeline.config.messages import in_words
from pipeline.config.renamed import present_key, tell_once
from pipeline.config.sections.attribution import Attribution
from pipeline.config.sections.compute import Compute
from pipeline.config.sections.data import Data
from pipeline.config.sections.detection import Detection
from pipeline.config.sections.export import Export
from pipeline.config.sections.fields import Section
from pipeline.config.sections.model import Model
from pipeline.config.sections.orchestration import Orchestration
from pipeline.config.sections.training import Training
from pipeline.config.sections.verification import Verification
from pipeline.config.yaml_text import write_yaml
from pipeline.errors import InputError

TRIED = ("model.name", "training.learning_rate", "training.epochs")
"""The keys that may be `auto`: a trial in the run chooses them."""


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
        if self.verification.same_order and self.training.trajectory is not None:
            raise ValueError(
                "`verification.same_order` repeats the order of the training, and training.trajectory is one made "
                "elsewhere"
            )
        if self.data.evidence and not self.detection.panel:
            raise ValueError(
                f"`data.{next(iter(self.data.evidence))}` is judged by the panel, and detection.panel is false"
            )
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
        if self.left_to_trial:
            raise ValueError(
                f"`{self.left_to_trial[0]}` is auto, and training.trajectory is one made elsewhere: say how it was made"
            )
        if self.attribution.ensemble > 1 or self.detection.repeats > 1:
            key = "attribution.ensemble" if self.attribution.ensemble > 1 else "detection.repeats"
            raise ValueError(
                f"`{key}` needs trainings of its own, and training.trajectory is one made elsewhere"
            )
        return self

    @property
    def left_to_trial(self) -> list[str]:
        """The keys that the trial of the run has to choose."""
        tree = self.as_dict()
        found = [key for key in TRIED if tree[key.split(".")[0]][key.split(".")[1]] == "auto"]
        return [key for key in found if key != "model.name" or self.model.target is None]

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
    key, value = present_key(dotted, value)
    if key != dotted:
        tell_once(f"--set {dotted}", dotted, key, str(value))
    *sections, last = key.split(".")
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
