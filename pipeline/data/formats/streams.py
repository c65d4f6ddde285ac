"""Opening files that may be compressed, and finding the encoding of text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from pipeline.errors import InputError

COMPRESSED = (".gz", ".zst", ".bz2")
BYTE_ORDER_MARK = "\ufeff"
PIECE = 2**20
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks; UTF-32's stand before UTF-16's, which they begin with."""
WORDS = {"cp1252": "Windows-1252", "latin-1": "Latin-1"}


def plain_suffix(path: Path) -> str:
    """The end of the name in lower case, without that of a compression: `.csv` of `a.CSV.gz`."""
    suffixes = [each.lower() for each in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def open_bytes(path: Path) -> IO[bytes]:
    """The content, uncompressed."""
    match path.suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        case ".bz2":
            return cast(IO[bytes], bz2.open(path, "rb"))
        case ".zst":
            return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), PIECE)
    return path.open("rb")


def create_bytes(path: Path, like: Path) -> IO[bytes]:
    """A file to write, compressed as `like` is by its name."""
    match like.suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.GzipFile(path, "wb", mtime=0))
        case ".bz2":
            return cast(IO[bytes], bz2.open(path, "wb"))
        case ".zst":
            return io.BufferedWriter(pa.CompressedOutputStream(str(path), "zstd"), PIECE)
    return path.open("wb")


def open_text(path: Path, encoding: str) -> io.TextIOWrapper:
    """The content as text with its line ends as they are."""
    return io.TextIOWrapper(open_bytes(path), encoding, newline="")


def create_text(path: Path, like: Path, encoding: str) -> io.TextIOWrapper:
    """A text file to write, compressed as `like` is; what is written keeps its line ends."""
    return io.TextIOWrapper(create_bytes(path, like), encoding, newline="")


def encoding_of(path: Path) -> str:
    """The encoding of a whole text file.

    It is what a byte order mark says, else UTF-16 where every second byte of the beginning is zero, else UTF-8 if all
    of it is, else Windows-1252 or, with bytes that this lacks, Latin-1.

    Raises:
        InputError: the file can't be read, or most of it is UTF-8 and some is not; the line is named.
    """
    try:
        with open_bytes(path) as file:
            head = file.read(4096)
        for mark, encoding in MARKS:
            if head.startswith(mark):
                return encoding
        if b"\0" in head:
            return _of_zeros(head)
        if _decodes(path, "utf-8"):
            return "utf-8"
        _refuse_mostly_utf8(path)
        return "cp1252" if _decodes(path, "cp1252") else "latin-1"
    except (OSError, EOFError, pa.ArrowException) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> InputError:
    """The error of a file that can't be read, or not to its end."""
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: can't be read ({reason})", "Check the file and its rights, or copy it again.")


def _of_zeros(head: bytes) -> str:
    """UTF-16 without a mark, by where its zero bytes are."""
    odd, even = head[1::2].count(0), head[::2].count(0)
    if max(odd, even) > 0.4 * (len(head) // 2):
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with open_bytes(path) as file:
        try:
            while piece := file.read(PIECE):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _refuse_mostly_utf8(path: Path) -> None:
    """Raises InputError where more characters are right UTF-8 than bytes are wrong: these are damaged."""
    right = wrong = line = 0
    with open_bytes(path) as file:
        for number, text in enumerate(file, 1):
            if text.isascii():
                continue
            read = text.decode("utf-8", "surrogateescape")
            bad = sum("\udc80" <= letter <= "\udcff" for letter in read)
            right += sum(letter > "\x7f" for letter in read) - bad
            line = line or (number if bad else 0)
            wrong += bad
    if right > wrong:
        raise InputError(
            f"{path}, line {line}: a byte that is not UTF-8, in a file that is UTF-8 elsewhere",
            "Correct the line, or write the file again in one encoding.",
        )
