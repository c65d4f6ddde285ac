"""The configuration of an audit: what there is to choose, reading it from YAML, and what is wrong with one in words."""

from __future__ import annotations

from pipeline.config.audit_config import AuditConfig, digest, validate
from pipeline.config.load import load_config
from pipeline.config.sections.attribution import Attribution
from pipeline.config.sections.compute import Compute
from pipeline.config.sections.data import ROLES, Data, FeatureKind, Split
from pipeline.config.sections.detection import Detection
from pipeline.config.sections.evidence import Embeddings, Evidence, Probabilities, class_text
from pipeline.config.sections.model import Model
from pipeline.config.sections.orchestration import Orchestration
from pipeline.config.sections.training import Training
from pipeline.config.sections.verification import Verification

__all__ = [
    "ROLES",
    "Attribution",
    "AuditConfig",
    "Compute",
    "Data",
    "Detection",
    "Embeddings",
    "Evidence",
    "FeatureKind",
    "Model",
    "Orchestration",
    "Probabilities",
    "Split",
    "Training",
    "Verification",
    "class_text",
    "digest",
    "load_config",
    "validate",
]
