"""Pretrained encoders: found, identified, loaded and called."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from xxhash import xxh3_128

from pipeline.errors import InputError
from pipeline.features.registry import import_path, is_import_path

BATCH = 32
"""Texts or pictures that an encoder is given at once."""
LIBRARY = "sentence-transformers"
PAGE = "docs/how-to/encoders.md says how."
SIDE = 64
"""Pixels of a picture that only tells how many numbers an encoder makes."""
Model = Callable[[list[Any]], np.ndarray]


@dataclass(frozen=True)
class Pretrained:
    """An encoder that a feature asks for.

    Attributes:
        column: of the feature.
        kind: `text` or `image`.
        encoder: a name, a folder or an import path.
        download: whether it may be downloaded.
    """

    column: str
    kind: str
    encoder: str
    download: bool = False

    @property
    def key(self) -> str:
        """Its place in the config."""
        return f"data.features.{self.column}.encoder"

    @property
    def blank(self) -> str | Image.Image:
        """Something to encode that is always there."""
        return "" if self.kind == "text" else Image.new("RGB", (SIDE, SIDE), "grey")

    def title(self) -> str:
        """The encoder's name, fit for a file's name."""
        return re.sub(r"[^\w.-]+", "-", Path(self.encoder).name)


@cache
def identity(asked: Pretrained) -> str:
    """What tells this encoder from others: a hash of its weights, or of the code that loads them.

    Raises:
        InputError: the encoder is not on this machine, or what loads it is not installed.
    """
    told = xxh3_128(f"{asked.kind}\n".encode())
    if is_import_path(asked.encoder):
        function = _function(asked)
        module = __import__(function.__module__, fromlist=["_"])
        source = getattr(module, "__file__", None)
        told.update(f"{asked.encoder}\n{getattr(function, 'version', '')}\n".encode())
        told.update(Path(source).read_bytes() if source else b"")
    else:
        told.update(f"{metadata.version(LIBRARY) if _library(asked) else ''}\n".encode())
        folder = _folder(asked)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if not any(part.startswith(".") for part in path.relative_to(folder).parts):
                told.update(f"{path.relative_to(folder)}\n{_hash(path)}\n".encode())
    return told.hexdigest()


def _hash(path: Path) -> str:
    found = xxh3_128()
    with path.open("rb") as file:
        while block := file.read(2**22):
            found.update(block)
    return found.hexdigest()


def _function(asked: Pretrained) -> Callable[[str], Any]:
    function = import_path(asked.encoder, asked.key)
    if not callable(function):
        raise InputError(
            f"{asked.key}: {asked.encoder} is no function",
            f"It has to be a function of a device that returns a function. {PAGE}",
        )
    return function


def _library(asked: Pretrained) -> Any:
    """The module sentence_transformers; the hub is not asked for anything unless the config allows it."""
    if not asked.download:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import sentence_transformers
    except ImportError as error:
        missing = error.name in ("sentence_transformers", None)
        raise InputError(
            f"{asked.key}: {asked.encoder!r} needs {LIBRARY}, which "
            + ("is not installed" if missing else f"can't be imported ({error})"),
            "Install it (pip install 'winnow[encoders]'), or name a function of your own (package.module:function).",
        ) from None
    return sentence_transformers


def _folder(asked: Pretrained) -> Path:
    """The folder with the weights."""
    path = Path(asked.encoder).expanduser()
    if path.is_dir():
        return path.resolve()
    names = (
        [asked.encoder] if "/" in asked.encoder else [f"sentence-transformers/{asked.encoder}", asked.encoder]
    )
    if path.is_absolute() or asked.encoder.startswith((".", "~")):
        names = []
    if names and asked.download:
        _download(asked)
    from huggingface_hub import snapshot_download

    for name in names:
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except Exception:  # whatever the hub raises; the next name may be there
            continue
    if not names:
        raise InputError(
            f"{asked.key}: there is no folder {asked.encoder}",
            "Give the folder of a model that sentence-transformers has saved, or its name.",
        )
    raise InputError(
        f"{asked.key}: there is no model {asked.encoder!r} on this machine",
        f"Give the folder that it is in, or set data.features.{asked.column}.download: true, which fetches it once.",
    )


def _download(asked: Pretrained) -> None:
    try:
        _library(asked).SentenceTransformer(asked.encoder, device="cpu")
    except Exception as error:  # whatever the hub or the library raises
        raise InputError(
            f"{asked.key}: {asked.encoder!r} can't be downloaded ({_said(error)})",
            "Check the name and the connection, or give the folder of a model.",
        ) from error


def load(asked: Pretrained, device: str) -> Model:
    """The encoder on a device: a function from texts or RGB pictures to float32 `[rows, width]`.

    It is kept until `forget`.

    Raises:
        InputError: it can't be loaded; by the function, it fails or its numbers can't be used.
    """
    if (asked, device) not in _loaded:
        _loaded[asked, device] = _Checked(asked, _load(asked, device))
    return _loaded[asked, device]


_loaded: dict[tuple[Pretrained, str], Model] = {}


def forget() -> None:
    """Drop the encoders that this process holds."""
    _loaded.clear()
    sentence_model.cache_clear()


def _load(asked: Pretrained, device: str) -> Callable[[list[Any]], Any]:
    if is_import_path(asked.encoder):
        with _loading(asked):
            return _function(asked)(device)
    model = sentence_model(asked, device)
    return lambda texts: model.encode(texts, batch_size=BATCH, show_progress_bar=False)


@cache
def sentence_model(asked: Pretrained, device: str) -> Any:
    """The encoder as a module of sentence-transformers, with its tokenizer; nobody may change it.

    Raises:
        InputError: it can't be loaded.
    """
    with _loading(asked):
        library, folder = _library(asked), str(_folder(asked))
        _no_bars()
        return library.SentenceTransformer(folder, device=device, local_files_only=True)


@contextmanager
def _loading(asked: Pretrained) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever the user's function or the library raises
        raise InputError(f"{asked.key}: {asked.encoder} can't be loaded ({_said(error)})", PAGE) from error


def _no_bars() -> None:
    """The library's own bars would stand among those of the audit."""
    from transformers.utils import logging

    logging.disable_progress_bar()


class _Checked:
    """Calls an encoder and checks what it returns."""

    def __init__(self, asked: Pretrained, model: Callable[[list[Any]], Any]):
        self._asked, self._model = asked, model
        self._width: int | None = None

    def __call__(self, rows: list[Any]) -> np.ndarray:
        try:
            found = self._model(rows)
            found = found.detach().cpu().numpy() if hasattr(found, "detach") else found
            numbers = np.ascontiguousarray(found, dtype=np.float32)
        except InputError:
            raise
        except Exception as error:  # whatever the user's function or the library raises
            raise InputError(
                f"{self._asked.key}: {self._asked.encoder} fails ({_said(error)})", PAGE
            ) from error
        self._check(numbers, len(rows))
        self._width = numbers.shape[1]
        return numbers

    def _check(self, numbers: np.ndarray, rows: int) -> None:
        what = f"{self._asked.key}: {self._asked.encoder} returns "
        if numbers.ndim != 2 or len(numbers) != rows or not numbers.shape[1]:
            raise InputError(
                f"{what}numbers of the shape {list(numbers.shape)} for {rows} rows",
                f"It has to return [{rows}, width].",
            )
        if self._width not in (None, numbers.shape[1]):
            raise InputError(
                f"{what}{numbers.shape[1]} numbers for a row, and {self._width} before",
                "All rows need the same width.",
            )
        if not np.isfinite(numbers).all():
            place = int(np.argmin(np.isfinite(numbers).all(1)))
            raise InputError(
                f"{what}NaN or infinity, first for row {place} of {rows}", "Numbers have to be finite."
            )


def _said(error: BaseException) -> str:
    lines: Sequence[str] = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
