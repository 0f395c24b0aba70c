"""What readers of all formats share: the part of a file that is asked for, and the columns that they give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError

Bytes = npt.NDArray[np.uint8]
Sensor = tuple[int, int]  # (height, width)


class Part(NamedTuple):
    """What is read of a file.

    Attributes:
        record: number of the recording, where a file holds several.
        since, until: microseconds; a reader may leave out what is not in [since, until).
    """

    record: int = 0
    since: int = 0
    until: int | None = None


class Raw(NamedTuple):
    """Events as a file has them: columns [N] of whole numbers that nobody has checked yet."""

    t: npt.ArrayLike
    x: npt.ArrayLike
    y: npt.ArrayLike
    p: npt.ArrayLike
    sensor: Sensor | None = None  # where the format tells it
    sorted: bool = True  # False: the format promises no order of time, so it is made here


Reader: TypeAlias = Callable[[Path, Part], Raw]


def bytes_of(path: Path) -> Bytes:
    """The bytes of a file, of which only those are read that are looked at.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is an empty file")
        return np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def records_of(data: Bytes, dtype: npt.DTypeLike, path: Path) -> npt.NDArray[np.void]:
    """Bytes as records of `dtype`.

    Raises:
        DataError: the last record is cut off.
    """
    size = np.dtype(dtype).itemsize
    if len(data) % size:
        raise DataError(f"{path} is cut off in record {len(data) // size}; get it again")
    return np.frombuffer(data, dtype)


def header_lines(data: Bytes, path: Path, end: bytes = b"") -> tuple[list[str], int]:
    """The lines at the start of a file that begin with `#`, and where what follows them begins.

    Args:
        end: the line that is the last one, if it comes.

    Raises:
        DataError: the file ends within a line.
    """
    lines: list[str] = []
    position = 0
    while position < len(data) and data[position] == ord("#"):
        line = bytes(data[position : position + _LONGEST_LINE]).partition(b"\n")
        if not line[1]:
            raise DataError(f"{path} is cut off in line {len(lines) + 1} of its header; get it again")
        lines.append(line[0].decode("utf-8", "replace").strip())
        position += len(line[0]) + 1
        if end and line[0].startswith(end):
            break
    return lines, position


_LONGEST_LINE = 2**16
