"""Tokens: a part of a corpus as numbers on disk, read by windows.

Bytes are tokens as they lie there. What other tokenisers make of a text is written to a cache once: a file of
numbers, and beside it, when that is whole, a table of the documents. It is found again by the tokeniser and by the
paths, sizes and times of the files. The cache is `$NEUROMIX_CACHE`, by default `neuromix` in `$XDG_CACHE_HOME` or
`~/.cache`; it can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError
from neuromix.core.files import replacing, write_json
from neuromix.data.text.corpus import Part, texts
from neuromix.data.text.tokeniser import Ids, Tokeniser

FORMAT = 1


@dataclass(frozen=True)
class Tokens:
    """The tokens of several documents, laid end to end.

    Attributes:
        files: of each document.
        first: [D], int64, where its tokens begin in its file, counted in tokens.
        ends: [D], int64, where they end in the whole.
        dtype: of the numbers in the files.
        size: bytes of the text that they stand for.
        unknown: how many stand for something that the vocabulary lacks.
    """

    files: tuple[Path, ...]
    first: Ids
    ends: Ids
    dtype: npt.DTypeLike
    size: int
    unknown: int = 0

    def __len__(self) -> int:
        """Number of tokens."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def documents(self) -> int:
        """Number of documents D."""
        return len(self.files)

    def read(self, start: int, stop: int) -> tuple[Ids, Ids]:
        """Tokens [start, stop) and the number of the document of each.

        Raises:
            DataError: a file has changed since.
        """
        ids, owners = [], []
        number = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            end = min(stop, int(self.ends[number]))
            begin = int(self.ends[number - 1]) if number else 0
            ids.append(self._read_from(number, start - begin, end - start))
            owners.append(np.full(end - start, number, np.int64))
            start, number = end, number + 1
        return np.concatenate(ids), np.concatenate(owners)

    def _read_from(self, number: int, offset: int, count: int) -> Ids:
        file, dtype = self.files[number], np.dtype(self.dtype)
        place = (int(self.first[number]) + offset) * dtype.itemsize
        try:
            found = np.fromfile(file, dtype, count, offset=place)
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}") from error
        if len(found) < count:
            raise DataError(f"{file} has become shorter than it was")
        return found.astype(np.int64)


def tokens(part: Part, tokeniser: Tokeniser) -> Tokens:
    """The tokens of a part of a corpus.

    Raises:
        DataError: a file cannot be read, or is not text.
        RunError: the cache cannot be written.
    """
    size = sum(document.size for document in part)
    if tokeniser.raw:
        files = tuple(document.file for document in part)
        first = np.array([document.start for document in part], np.int64)
        ends = np.cumsum([document.size for document in part], dtype=np.int64)
        return Tokens(files, first, ends, np.uint8, size)
    stem = _cache() / _key(part, tokeniser)
    numbers, table = stem.with_suffix(".tokens"), stem.with_suffix(".json")
    dtype = np.uint16 if tokeniser.vocab_size <= 1 << 16 else np.uint32
    about = _known(numbers, table, np.dtype(dtype).itemsize) or _written(
        numbers, table, part, tokeniser, dtype
    )
    counts = np.array(about["counts"], np.int64)
    ends = np.cumsum(counts)
    return Tokens((numbers,) * len(counts), ends - counts, ends, dtype, size, about["unknown"])


def _written(
    numbers: Path, table: Path, part: Part, tokeniser: Tokeniser, dtype: type[np.unsignedinteger[Any]]
) -> dict[str, Any]:
    counts, unknown = [], 0
    with replacing(numbers) as temporary, open(temporary, "wb") as file:
        for document in part:
            count = 0
            for text in _pieces(texts([document])):
                ids = tokeniser.encode(text)
                file.write(ids.astype(dtype).tobytes())
                count, unknown = count + len(ids), unknown + tokeniser.count_unknown(ids)
            counts.append(count)
    about = {"counts": counts, "unknown": unknown}
    write_json(table, about)
    return about


def _pieces(blocks: Iterator[str]) -> Iterator[str]:
    """A text cut where a line ends, so that no word is torn; a line that fills a block is cut at its end."""
    rest = ""
    for block in blocks:
        rest += block
        cut = rest.rfind("\n") + 1 or len(rest)
        yield rest[:cut]
        rest = rest[cut:]
    if rest:
        yield rest


def _known(numbers: Path, table: Path, width: int) -> dict[str, Any] | None:
    """What the table of a cached text says; None where there is none, or its numbers are not whole."""
    try:
        about = json.loads(table.read_text(encoding="utf-8"))
        return dict(about) if numbers.stat().st_size == sum(about["counts"]) * width else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NEUROMIX_CACHE") or Path(home) / "neuromix") / "text"


def _key(part: Part, tokeniser: Tokeniser) -> str:
    def stamp(file: Path) -> tuple[str, int, int]:
        about = file.stat()
        return str(file.resolve()), about.st_size, about.st_mtime_ns

    told = [FORMAT, list(tokeniser.spec), [(*stamp(each.file), each.start, each.stop) for each in part]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
