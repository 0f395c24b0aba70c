"""What readers of all formats share: the bytes of a file, and polygons as triangles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuromix.core.errors import DataError
from neuromix.data.points.value import Integers


def bytes_of(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{path} is an empty file")
    return data


def lines_of(path: Path) -> list[tuple[int, list[str]]]:
    """The cells of each line that has any, and its number; what follows a `#` is passed over.

    Raises:
        DataError: the file cannot be read, is empty, or is no text.
    """
    try:
        lines = bytes_of(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text: byte {error.start} is {error.object[error.start]}") from error
    cells = ((i, line.partition("#")[0].replace(",", " ").split()) for i, line in enumerate(lines, 1))
    return [(number, found) for number, found in cells if found]


def triangles(polygons: Sequence[Sequence[int]], path: Path) -> Integers:
    """Polygons as fans of triangles: [F, 3].

    Raises:
        DataError: one has fewer than three corners.
    """
    for number, polygon in enumerate(polygons):
        if len(polygon) < 3:
            raise DataError(f"{path}: face {number} has {len(polygon)} corners; expected 3 or more")
    fans = [
        (polygon[0], polygon[i], polygon[i + 1]) for polygon in polygons for i in range(1, len(polygon) - 1)
    ]
    return np.array(fans, np.int64).reshape(-1, 3)
