"""Checks that the machine supports the precision that the config asks for."""

from __future__ import annotations

import torch

from pipeline.config import AuditConfig
from pipeline.errors import InputError


def require_precision(config: AuditConfig) -> None:
    """Check that attribution can run at the configured precision.

    Raises:
        InputError: the precision is tf32, but attribution runs on the CPU.
    """
    on_cpu = config.compute.device == "cpu" or not (config.compute.scheduler or torch.cuda.is_available())
    if config.attribution.precision == "tf32" and on_cpu:
        raise InputError(
            "attribution.precision is tf32, which only GPUs have, but attribution runs on the CPU",
            "Set it to float32 or bf16.",
        )
