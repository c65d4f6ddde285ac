from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.training.tensor_file import RowsFile, write_rows


def tensors(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "loss": torch.rand(rows, generator=generator),
        "margin": torch.rand(rows, generator=generator),
        "top_class": torch.randint(0, 100, (rows, 3), generator=generator).short(),
        "top_probability": torch.rand(rows, 3, generator=generator).half(),
        "row_ids": torch.randint(0, 2**40, (rows,), generator=generator),
    }


def parts(whole: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    rows = len(whole["loss"])
    return [{name: t[start : start + size] for name, t in whole.items()} for start in range(0, rows, size)]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_file_written_in_parts_is_the_one_that_safetensors_writes(tmp_path: Path, size: int) -> None:
    whole = tensors(50)
    for _ in write_rows(tmp_path / "parts", 50, parts(whole, size)):
        pass
    save_file(whole, tmp_path / "whole")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert torch.equal(load_file(tmp_path / "parts")["top_class"], whole["top_class"])


def test_runs_of_rows_are_read_alone(tmp_path: Path) -> None:
    whole = tensors(50)
    save_file(whole, tmp_path / "file")
    file = RowsFile(tmp_path / "file")
    assert len(file) == 50
    for name, tensor in whole.items():
        assert torch.equal(file.read(name, 11, 42), tensor[11:42])
        assert torch.equal(file.read(name, 0, 50), tensor)
        assert len(file.read(name, 9, 9)) == 0


def test_too_few_rows_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="50 rows were given for a file of 51"):
        list(write_rows(tmp_path / "file", 51, parts(tensors(50), 20)))
    assert not (tmp_path / "file").exists()
