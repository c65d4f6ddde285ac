"""Safetensors files with one entry per row, written and read in consecutive slices of rows.

The format (huggingface/safetensors) has 8 bytes with the length of the header, the header as JSON that is padded with
spaces to a multiple of 8, and the bytes of the tensors. The files have the same bytes as those of
`safetensors.save_file`, which can only write whole tensors. A file is mapped only while a part of it is read, because
pages that stay mapped would count as memory of the process.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.runs.directory import write_atomically

DTYPES: dict[torch.dtype, tuple[str, np.dtype[Any]]] = {
    torch.int64: ("I64", np.dtype("<i8")),
    torch.float64: ("F64", np.dtype("<f8")),
    torch.float32: ("F32", np.dtype("<f4")),
    torch.int32: ("I32", np.dtype("<i4")),
    torch.float16: ("F16", np.dtype("<f2")),
    torch.int16: ("I16", np.dtype("<i2")),
}
"""In the order in which the safetensors library lays out tensors of these dtypes."""


def write_rows(path: Path, rows: int, parts: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Write tensors part by part, and yield each part after it is written.

    The file appears when the last part has been consumed.

    Args:
        path: the file.
        rows: how many rows all parts have together.
        parts: tensors by name, in the order of the rows; names, dtypes and shapes of a row are the same in all parts.

    Raises:
        ValueError: the parts do not have `rows` rows together.
    """
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        begin: dict[str, int] = {}
        done = 0
        for part in parts:
            if not begin:
                header, begin = _make_header(rows, part)
                file.write(header)
            for name, tensor in part.items():
                values = tensor.cpu().contiguous().numpy()
                file.seek(begin[name] + done * row_bytes(tensor))
                file.write(values.astype(DTYPES[tensor.dtype][1], copy=False).tobytes())
            done += len(next(iter(part.values())))
            yield part
        if done != rows:
            raise ValueError(f"{path}: {done} rows were given for a file of {rows}")


def row_bytes(tensor: Tensor) -> int:
    return tensor[0].numel() * tensor.element_size()


def _make_header(rows: int, part: dict[str, Tensor]) -> tuple[bytes, dict[str, int]]:
    """The bytes before the tensors, and the place in the file where each tensor begins."""
    offset, entries, offsets = 0, {}, {}
    for name in sorted(part, key=lambda name: (list(DTYPES).index(part[name].dtype), name)):
        tensor = part[name]
        size = rows * row_bytes(tensor)
        shape = [rows, *tensor.shape[1:]]
        entries[name] = {
            "dtype": DTYPES[tensor.dtype][0],
            "shape": shape,
            "data_offsets": [offset, offset + size],
        }
        offsets[name] = offset
        offset += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: first + place for name, place in offsets.items()}


class RowsFile:
    """Reads slices of consecutive rows from a file of `write_rows`; every read maps the file anew."""

    def __init__(self, path: Path):
        self._path = path
        with safe_open(path, "pt") as file:
            self.names = sorted(file.keys())
            self._rows = int(file.get_slice(self.names[0]).get_shape()[0])

    def __len__(self) -> int:
        return self._rows

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Read rows start … stop − 1 of a tensor."""
        with safe_open(self._path, "pt") as file:
            return file.get_slice(name)[start:stop].clone()
