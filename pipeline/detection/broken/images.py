"""Images that can't be right: of one colour throughout, or cut off, where the dataset's others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data.encoded import Chunk, Rows
from pipeline.detection.columns import slices
from pipeline.runs.context import AuditContext
from pipeline.workers.worker import run_data

MOST_SHARE = 0.05
"""What holds for more of the rows is taken for the dataset's way."""
EMPTY = 0.99
"""Share of the numbers of an image that are black, or white, from which it shows nothing."""
CUT = 0.125
"""Share of the lines, at an edge, that have to be of one colour in an image where they hardly ever are in others."""
SLICE = 256


def broken_images(context: AuditContext) -> np.ndarray:
    """bool `[train rows]`; all False where no feature is an image."""
    path = context.run.path
    data = run_data(path)
    chunks = data.chunks("train")
    if "image" not in data.encoding.input_shapes:
        return np.zeros(data.count("train"), dtype=bool)
    names = [f"broken images: chunk {chunk.id}" for chunk in chunks]
    counts = context.workers.run(count_plain_lines, [(path, chunk) for chunk in chunks], names)
    usual = [np.sum(each, axis=0) > MOST_SHARE * data.count("train") for each in zip(*counts)]
    parts = context.workers.run(judge_images, [(path, chunk, *usual) for chunk in chunks], names)
    empty, cut = (np.concatenate(each) for each in zip(*parts))
    return (empty & (empty.mean() <= MOST_SHARE)) | (cut & (cut.mean() <= MOST_SHARE))


def images(rows: Rows) -> Tensor:
    """uint8 `[rows, channels, height, width]`."""
    return rows.inputs["image"] if isinstance(rows.inputs, dict) else rows.inputs


def plain_lines(pixels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """bool `[rows, height]` and `[rows, width]`: rows and columns of pixels that are of one colour."""
    across = (pixels.amax(3) == pixels.amin(3)).all(1)
    down = (pixels.amax(2) == pixels.amin(2)).all(1)
    return across.numpy(), down.numpy()


def count_plain_lines(run_path: Path, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """In how many of a chunk's images each line is of one colour: int64 `[height]`, `[width]` (a task for a worker)."""
    pixels = images(run_data(run_path).load(chunk))
    counts = [[each.sum(0) for each in plain_lines(pixels[place])] for place in slices(chunk.rows, SLICE)]
    across, down = (np.sum(each, axis=0) for each in zip(*counts))
    return across, down


def judge_images(
    run_path: Path, chunk: Chunk, usual_across: np.ndarray, usual_down: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """bool `[rows]` each: nearly all black or white or of one colour; cut off (a task for a worker).

    usual_across, usual_down: bool `[height]`, `[width]`, lines that are plain in more than MOST_SHARE of all images.
    """
    pixels = images(run_data(run_path).load(chunk))
    empty, cut = np.zeros((2, chunk.rows), dtype=bool)
    for place in slices(chunk.rows, SLICE):
        part = pixels[place]
        across, down = plain_lines(part)
        flat = part.flatten(1)
        extremes = torch.stack([(flat == value).float().mean(1) for value in (0, 255)])
        empty[place] = across.all(1) & down.all(1) | (extremes.amax(0) >= EMPTY).numpy()
        cut[place] = is_cut(across, usual_across) | is_cut(down, usual_down)
    return empty, cut


def is_cut(plain: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """bool `[rows]`: plain lines run in from one edge, and CUT of all lines are among them without being usual."""
    least = max(2, int(np.ceil(CUT * len(usual))))
    found = np.zeros(len(plain), dtype=bool)
    for lines, usually in ((plain, usual), (plain[:, ::-1], usual[::-1])):
        block = np.logical_and.accumulate(lines, axis=1)
        found |= (block & ~usually).sum(1) >= least
    return found
