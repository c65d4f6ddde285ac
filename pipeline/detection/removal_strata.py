"""Groups of rows with their own cap on removals, and within which verification draws its random removal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from pipeline.runs.tensors import save_tensors

TENTHS = 10


def strata_path(run_path: Path) -> Path:
    """The strata of train rows: tenths in regression (`prediction_strata`), with sets of labels the number of labels
    predicted out of sample; those of a classification are its classes, and not written.
    """
    return run_path / "detection" / "strata.safetensors"


def prediction_strata(predicted: np.ndarray, groups: int = TENTHS) -> np.ndarray:
    """int64 `[rows]`, 0 … groups − 1, equally many rows each: by the target that is predicted out of sample.

    Not by the given target: where that is wrong it would match a wrong row with right rows of quite another kind,
    and extreme wrong targets with the few right ones there are, whose loss hurts.
    """
    rank = np.empty(len(predicted), dtype=np.int64)
    rank[np.argsort(predicted, kind="stable")] = np.arange(len(predicted))
    return rank * groups // len(predicted)


def write_strata(run_path: Path, strata: np.ndarray) -> None:
    save_tensors(strata_path(run_path), {"strata": torch.from_numpy(strata)})


def read_strata(run_path: Path) -> np.ndarray:
    return load_file(strata_path(run_path))["strata"].numpy()
