"""The configuration of an audit: what there is to choose, reading it from YAML, and what is wrong with one in words."""

from __future__ import annotations

from pipeline.config.load import load_config
from pipeline.config.schema import (
    ROLES,
    Attribution,
    AuditConfig,
    Compute,
    Data,
    Detection,
    FeatureKind,
    Model,
    Orchestration,
    Split,
    Training,
    Verification,
    digest,
    validate,
)

__all__ = [
    "ROLES",
    "Attribution",
    "AuditConfig",
    "Compute",
    "Data",
    "Detection",
    "FeatureKind",
    "Model",
    "Orchestration",
    "Split",
    "Training",
    "Verification",
    "digest",
    "load_config",
    "validate",
]
