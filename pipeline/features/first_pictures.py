"""What `winnow init` sees in a few pictures of a column, and what it proposes for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from pipeline.features.arrow import is_string
from pipeline.features.decoding import DEEP_MODES, opened
from pipeline.features.encoder import Choice, Sample
from pipeline.features.picture_files import NOT_EMBEDDED, contents, has_ending, is_address, placed

LARGEST = 64
"""Pixels of the longer side of pictures that are read as they are: with larger ones the built-in models take long."""
PROPOSED = 32
"""Pixels of the longer side that is proposed at most: plain models look no closer (JUDGED_SIDE)."""
NEARLY_SQUARE = 1.25
"""Of the longer side and the shorter one: pictures of many sizes up to it are read as squares."""
SMALL = 32  # pixels; up to it a grey image needs no convolutions
SMALL_RECIPE = "{name: auto, channels: [32, 64], hidden: [256, 128]}"
RECIPE = "{name: convnet, channels: [32, 64], hidden: [128]}"
NAMED_FILES = 0.9
"""Share of the texts of a column that have to end like names of picture files."""
ORIENTATION = 274
"""The EXIF tag that says how a picture is turned; from SIDEWAYS on, height and width change places."""
SIDEWAYS = 5


@dataclass
class Seen:
    """A few pictures by their headers; sizes are (height, width)."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    colours: Counter[str] = field(default_factory=Counter)  # grey, RGB, 16-bit grey, or the mode
    wrong: list[str] = field(default_factory=list)  # what is wrong with each that can't be read

    @property
    def readable(self) -> int:
        return self.sizes.total()

    @property
    def is_grey(self) -> bool:
        return all("grey" in colour for colour in self.colours)

    @property
    def is_plain(self) -> bool:
        """Whether all have one size and the channels of one mode, without asking for anything."""
        return len(self.sizes) == 1 and len(self.colours) == 1 and set(self.colours) <= {"grey", "RGB"}

    def size(self) -> tuple[int, int]:
        """The size to read all at: the median of each side, and no side above PROPOSED."""
        height, width = (median(side) for side in zip(*self.sizes.elements()))
        if len(self.sizes) > 1 and max(height, width) <= NEARLY_SQUARE * min(height, width):
            height = width = max(height, width)
        scale = min(1.0, PROPOSED / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def text(self) -> str:
        """Sizes as width×height, and colours."""
        heights, widths = zip(*self.sizes)
        colours = " and ".join(sorted(self.colours))
        if len(self.sizes) == 1:
            return f"{widths[0]}×{heights[0]} {colours}"
        return f"{min(widths)}×{min(heights)} to {max(widths)}×{max(heights)} {colours}"


def look_at(values: Iterator[pa.Array]) -> Seen:
    """Read the headers of pictures: bytes, absolute paths, or structs of both; null ones are passed over."""
    seen = Seen()
    for column in values:
        for data in contents(column):
            if data is None:
                continue
            if isinstance(data, OSError):
                seen.wrong.append(str(data))
            else:
                try:
                    with opened(data) as image:
                        turned = image.getexif().get(ORIENTATION, 1) >= SIDEWAYS
                        size = (image.width, image.height) if turned else (image.height, image.width)
                        colour = _colour(image.mode)
                except ValueError as error:
                    seen.wrong.append(str(error))
                    continue
                seen.sizes[size] += 1
                seen.colours[colour] += 1
    return seen


def _colour(mode: str) -> str:
    if mode in DEEP_MODES:
        return "16-bit grey"
    named = {"L": "grey", "1": "grey", "LA": "grey with alpha", "RGBA": "RGB with alpha", "P": "palette"}
    return named.get(mode, mode)


def propose_pixels(kind: str, size: tuple[int, int, int]) -> Choice:
    """size: height, width and channels of lists of pixels."""
    height, width, channels = size
    colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    read_at = _smaller(height, width)
    return _proposed(kind, f"{width}×{height} {colours}", read_at, read_at or (height, width), channels == 1)


def _smaller(height: int, width: int) -> tuple[int, int] | None:
    """The size to read pictures at that are larger than LARGEST."""
    seen = Seen(Counter({(height, width): 1}))
    return seen.size() if max(height, width) > LARGEST else None


def propose_files(kind: str, sample: Sample) -> Choice | None:
    """What a column is good for whose values are pictures' bytes or paths; None for other texts."""
    if not is_string(sample.column.type):
        seen = look_at(placed(values, folder) for folder, values in sample.few())
        if not seen.readable:
            lost = next((text for text in seen.wrong if NOT_EMBEDDED in text), None)
            return Choice(None, lost or "bytes, not images", certain=lost is not None)
        return _of_files(kind, seen)
    texts = [text for text in sample.values.drop_null().to_pylist() if text] if sample.values else []
    if not texts or sum(map(has_ending, texts)) < NAMED_FILES * len(texts):
        return None
    if any(map(is_address, texts)):
        return Choice(
            None,
            "web addresses of pictures: nothing is downloaded, so download them and give their paths",
            certain=True,
        )
    tried = []
    for root in _roots(sample):
        seen = look_at(placed(values, root or folder) for folder, values in sample.few())
        if seen.readable:
            return _of_files(kind, seen, root)
        tried.append(root or next((folder for folder, _ in sample.few()), "."))
    return Choice(
        None, f"names of pictures, none of which is a picture in {' or '.join(tried)}", certain=True
    )


def _roots(sample: Sample) -> Iterator[str]:
    """Where relative paths may start: empty for the folder of each file, then the working directory, then above."""
    yield ""
    yield "."
    for folder, _ in sample.few():
        yield str(Path(folder).parent)
        return


def _of_files(kind: str, seen: Seen, root: str = "") -> Choice:
    one = next(iter(seen.sizes))
    kept = seen.is_plain and max(one) <= LARGEST
    said = seen.text()
    if seen.wrong:
        said += f", {len(seen.wrong)} of {seen.readable + len(seen.wrong)} looked at can't be read"
    size = one if kept else seen.size()
    return _proposed(kind, said, None if kept else size, size, seen.is_grey, root)


def _proposed(
    kind: str, said: str, read_at: tuple[int, int] | None, size: tuple[int, int], grey: bool, root: str = ""
) -> Choice:
    small = max(size) <= SMALL and grey
    options: dict[str, tuple[Any, str]] = {}
    if read_at is not None:
        said += f", read at {read_at[1]}×{read_at[0]}"
        options["image_size"] = (
            list(read_at),
            "height, width: every picture is resized to it; a larger one shows more and takes longer",
        )
    if root:
        options["image_root"] = (root, "where the paths of the pictures start")
    return Choice(kind, said, recipe=SMALL_RECIPE if small else RECIPE, certain=True, options=options)
