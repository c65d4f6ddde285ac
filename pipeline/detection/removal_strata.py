"""Strata of the rows: each has its own cap on removals, and verification draws its random control within them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from pipeline.runs.tensors import save_tensors

TENTHS = 10


def _strata_path(run_path: Path) -> Path:
    """The file with the strata of the train rows.

    For regression these are tenths (`prediction_strata`), for sets of labels the number of labels predicted out of
    sample. For classification there is no file, because the strata are the classes.
    """
    return run_path / "detection" / "strata.safetensors"


def prediction_strata(predicted: np.ndarray, groups: int = TENTHS) -> np.ndarray:
    """Strata of equal size by the target that is predicted out of sample.

    The given target would be a bad choice: a wrong one would match its row with right rows of another kind, and an
    extreme wrong one with the few right extreme rows, whose removal hurts.

    Args:
        predicted: float `[rows]`.
        groups: how many strata there are.

    Returns:
        int64 `[rows]`, 0 … groups − 1.
    """
    rank = np.empty(len(predicted), dtype=np.int64)
    rank[np.argsort(predicted, kind="stable")] = np.arange(len(predicted))
    return rank * groups // len(predicted)


def write_strata(run_path: Path, strata: np.ndarray) -> None:
    save_tensors(_strata_path(run_path), {"strata": torch.from_numpy(strata)})


def read_strata(run_path: Path) -> np.ndarray:
    return load_file(_strata_path(run_path))["strata"].numpy()
