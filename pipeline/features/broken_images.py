"""Images that can't be right: of one colour throughout, or cut off, where the dataset's others are not."""

from __future__ import annotations

import numpy as np

from pipeline.features.encoder import MOST_SHARE

EMPTY = 0.99
"""Share of the numbers of an image that are black, or white, from which it shows nothing."""
CUT = 0.125
"""Share of the lines, at an edge, that have to be of one colour in an image where they hardly ever are in others."""
SLICE = 256


def image_marks(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `broken_images` needs of some images.

    Args:
        images: uint8 `[rows, channels, height, width]`.

    Returns:
        bool `[rows]`: all of one colour, or nearly all black or white; and which rows and which columns of pixels are
        of one colour, as bits, uint8 `[rows, ⌈height / 8⌉]` and `[rows, ⌈width / 8⌉]`.
    """
    empty = np.zeros(len(images), dtype=bool)
    bits: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(images), SLICE):
        part = images[start : start + SLICE]
        across, down = plain_lines(part)
        numbers = part.reshape(len(part), -1)
        extreme = np.maximum(*((numbers == value).mean(1) for value in (0, 255)))
        empty[start : start + SLICE] = across.all(1) & down.all(1) | (extreme >= EMPTY)
        bits.append((np.packbits(across, axis=1), np.packbits(down, axis=1)))
    rows, columns = (np.concatenate(each) for each in zip(*bits))
    return empty, rows, columns


def plain_lines(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool `[rows, height]` and `[rows, width]`: rows and columns of pixels that are of one colour."""
    across = (images.max(3) == images.min(3)).all(1)
    down = (images.max(2) == images.min(2)).all(1)
    return across, down


def broken_images(
    empty: np.ndarray, rows: np.ndarray, columns: np.ndarray, height: int, width: int
) -> np.ndarray:
    """bool `[images]`, from the marks of all of them."""
    cut = _run_in(rows, height) | _run_in(columns, width)
    return (empty & (empty.mean() <= MOST_SHARE)) | (cut & (cut.mean() <= MOST_SHARE))


def _run_in(bits: np.ndarray, count: int) -> np.ndarray:
    """bool `[images]`: plain lines run in from an edge where they are not usual; bits: of `count` lines an image."""
    parts = [slice(start, start + SLICE) for start in range(0, len(bits), SLICE)]

    def lines(part: slice) -> np.ndarray:
        return np.unpackbits(bits[part], axis=1, count=count).astype(bool)

    usual = np.sum([lines(part).sum(0) for part in parts], axis=0) > MOST_SHARE * len(bits)
    return np.concatenate([is_cut(lines(part), usual) for part in parts])


def is_cut(plain: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """bool `[rows]`: plain lines run in from one edge, and CUT of all lines are among them without being usual."""
    least = max(2, int(np.ceil(CUT * len(usual))))
    found = np.zeros(len(plain), dtype=bool)
    for lines, usually in ((plain, usual), (plain[:, ::-1], usual[::-1])):
        block = np.logical_and.accumulate(lines, axis=1)
        found |= (block & ~usually).sum(1) >= least
    return found
