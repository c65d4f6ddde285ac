"""Winnow: clean a labelled dataset by training-data attribution and prove that it helped.

The public names are loaded on first use, so that `pipeline.attribution` needs torch and safetensors alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "audit": "pipeline.stages.audit",
    "AuditResult": "pipeline.results.result",
    "AuditConfig": "pipeline.config",
    "load_config": "pipeline.config",
    "lds": "pipeline.faithfulness.measure",
    "read_bank": "pipeline.faithfulness.bank",
    "score_bank": "pipeline.faithfulness.bank_scores",
    "InputError": "pipeline.errors",
    "WinnowError": "pipeline.errors",
}

__all__ = [
    "AuditConfig",
    "AuditResult",
    "InputError",
    "WinnowError",
    "__version__",
    "audit",
    "lds",
    "load_config",
    "read_bank",
    "score_bank",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
