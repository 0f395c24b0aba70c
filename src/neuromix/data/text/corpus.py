"""Corpus: text files, and which bytes of them are for training, for validation and for the test.

The cuts are made in bytes, so that the parts are the same text whatever the tokeniser. Files are read in blocks:
a text may be larger than the memory.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from neuromix.core.errors import DataError

BLOCK = 1 << 20  # bytes that are read at a time
_LOOKED_AT = 1 << 16  # bytes at the start of a file in which one that is no text has a zero
_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test",),
}


class Document(NamedTuple):
    """Bytes [start, stop) of a file."""

    file: Path
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stop - self.start


Part: TypeAlias = tuple[Document, ...]


def open_corpus(data: str | Path, validation: float, test: float) -> dict[str, Part]:
    """The documents of train, validation and test.

    A file is one document. A folder holds a document a file, in alphabetical order of their paths; hidden and empty
    files are left out. Files or folders that are called train, validation (valid, val) and test, with any suffix,
    are these parts; the rest of such a folder is not read. What is missing of them is cut off the end of the training
    part: the last `test` of its bytes, and the `validation` of its bytes before them.

    Args:
        data: a file or a folder.
        validation, test: shares of the bytes, in [0, 1], together at most 1.

    Raises:
        DataError: there is nothing, it cannot be read, is empty or no text.
    """
    path = Path(data).expanduser()
    if not path.exists():
        raise DataError(f"no text at {path}: give a text file, or a folder of text files")
    try:
        given = _named_parts(path) or {"train": _documents(path)}
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    size = sum(document.size for document in given["train"])
    cut_test = size if "test" in given else size - round(test * size)
    cut_validation = cut_test if "validation" in given else cut_test - round(validation * size)
    cuts = {"train": (0, cut_validation), "validation": (cut_validation, cut_test), "test": (cut_test, size)}
    return {
        name: given[name] if name in given and name != "train" else _cut(given["train"], *cuts[name])
        for name in cuts
    }


def _named_parts(path: Path) -> Mapping[str, Part]:
    """The parts that the names in a folder tell; none where there is no training part."""
    if not path.is_dir():
        return {}
    entries = {entry.name.partition(".")[0].lower(): entry for entry in sorted(path.iterdir())}
    found = {
        part: next((entries[name] for name in names if name in entries), None)
        for part, names in _NAMES.items()
    }
    if found["train"] is None:
        return {}
    return {part: _documents(entry) for part, entry in found.items() if entry is not None}


def _documents(path: Path) -> Part:
    """The documents of a file or a folder."""
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and not _is_hidden(file, path)]
    found = tuple(document for document in map(_document, files) if document.size)
    if not found:
        raise DataError(f"{path} {'holds no text: no file, or empty ones' if path.is_dir() else 'is empty'}")
    return found


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(name.startswith(".") for name in file.relative_to(folder).parts)


def _document(file: Path) -> Document:
    with open(file, "rb") as source:
        zero = source.read(_LOOKED_AT).find(b"\0")
    if zero >= 0:
        raise DataError(f"{file} is no text: byte {zero} is zero")
    return Document(file, 0, file.stat().st_size)


def _cut(part: Part, start: int, stop: int) -> Part:
    """Bytes [start, stop) of the documents laid end to end; cuts move on to the start of a character."""
    kept, before = [], 0
    for document in part:
        low = _character(document, start - before)
        high = _character(document, stop - before)
        if low < high:
            kept.append(Document(document.file, low, high))
        before += document.size
    return tuple(kept)


def _character(document: Document, offset: int) -> int:
    """The first byte of a document from `offset` on that does not continue a character of UTF-8."""
    if offset <= 0 or offset >= document.size:
        return min(max(offset, 0), document.size)
    with open(document.file, "rb") as file:
        file.seek(offset)
        following = file.read(3)
    return offset + next((i for i, byte in enumerate(following) if byte & 0xC0 != 0x80), len(following))


def texts(part: Iterable[Document]) -> Iterator[str]:
    """The text of documents in pieces, a new one at every start of a document.

    Raises:
        DataError: a file that cannot be read, or is not UTF-8; it names the byte.
    """
    for document in part:
        try:
            with open(document.file, "rb") as file:
                file.seek(document.start)
                yield from _decoded(document, file)
        except OSError as error:
            raise DataError(f"cannot read {document.file}: {error.strerror or error}") from error


def _decoded(document: Document, file: BinaryIO) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = document.start
    while at < document.stop:
        block = file.read(min(BLOCK, document.stop - at))
        if not block:
            raise DataError(f"{document.file} has become shorter than it was")
        pending = len(decoder.getstate()[0])
        if (zero := block.find(b"\0")) >= 0:
            raise DataError(f"{document.file} is no text: byte {at + zero} is zero")
        try:
            yield decoder.decode(block, at + len(block) == document.stop)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{document.file} is not UTF-8: byte {at - pending + error.start} is "
                f"0x{error.object[error.start]:02x}; convert it, or read it as bytes: --set task.tokeniser=bytes"
            ) from error
        at += len(block)
