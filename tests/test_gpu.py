"""The same audit on a GPU, where there is one, and on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from digits_run import digits_config, run_until
from safetensors.torch import load_file

from pipeline.attribution.trajectory.trajectory import TAIL_NAME
from pipeline.data.encoded import Rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "run"
    run_until(digits_config(compute__device="cuda"), path, "verify")
    return path


def test_weights_are_those_of_the_cpu_but_for_rounding(on_gpu: Path, detected_run: Path) -> None:
    ours, theirs = (load_file(path / "checkpoints" / TAIL_NAME) for path in (on_gpu, detected_run))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-3)


def test_scores_and_ranking_agree_with_the_cpu(on_gpu: Path, detected_run: Path) -> None:
    ours, theirs = (pq.read_table(path / "rows.parquet") for path in (on_gpu, detected_run))
    assert ours["row_key"].equals(theirs["row_key"])
    for name in ("self_influence", "validation_harm", "mean_loss", "mean_margin", "suspicion"):
        one, two = ours[name].to_numpy(), theirs[name].to_numpy()
        assert np.corrcoef(one, two)[0, 1] > 0.99, name
        assert np.median(np.abs(one - two)) < 0.02 * np.abs(two).max(), name


def test_a_second_run_on_the_gpu_has_the_same_bits(on_gpu: Path, tmp_path: Path) -> None:
    run_until(digits_config(compute__device="cuda"), tmp_path / "run", "train")
    ours, theirs = (load_file(path / "checkpoints" / TAIL_NAME) for path in (on_gpu, tmp_path / "run"))
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


def test_rows_go_to_the_gpu_and_back_unchanged() -> None:
    rows = Rows(
        {"dense": torch.rand(9, 4), "tokens": torch.arange(9)[:, None]}, torch.arange(9), torch.arange(9)
    )
    back = rows.to(CUDA).to(torch.device("cpu"))
    assert isinstance(back.inputs, dict)
    assert torch.equal(back.inputs["dense"], rows.inputs["dense"])  # type: ignore[index]
    assert torch.equal(back.row_ids, rows.row_ids)
