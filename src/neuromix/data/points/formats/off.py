"""`.off`: the Object File Format as text, points and the polygons between them.

ModelNet has files whose first line holds the counts too, without a blank behind `OFF`; they are read as well.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuromix.core.errors import DataError
from neuromix.data.points.formats.bytes import lines_of, triangles
from neuromix.data.points.value import PointCloud


def read(path: Path) -> PointCloud:
    """Reads a file."""
    lines = lines_of(path)
    if not lines or not lines[0][1][0].startswith("OFF"):
        begin = lines[0][1][0][:20] if lines else ""
        raise DataError(f"{path} begins with {begin!r}; expected OFF")
    number, (first, *rest) = lines[0]
    glued = [first.removeprefix("OFF"), *rest] if first != "OFF" else rest
    body = [(number, glued), *lines[1:]] if glued else lines[1:]
    points, faces = _counts(body, path)
    body = body[1:]
    if len(body) < points + faces:
        raise DataError(
            f"{path} is cut off: {points} points and {faces} faces are told, {len(body)} lines follow; get it again"
        )
    xyz = [_point(line, path) for line in body[:points]]
    polygons = [_polygon(line, path) for line in body[points : points + faces]]
    corners = triangles(polygons, path) if polygons else None
    return PointCloud(np.array(xyz, np.float64).reshape(-1, 3), faces=corners, where=str(path))


def _counts(body: list[tuple[int, list[str]]], path: Path) -> tuple[int, int]:
    number, cells = body[0] if body else (1, [])
    if len(cells) < 2 or not all(cell.isdecimal() for cell in cells[:2]):
        raise DataError(
            f"{path}, line {number}: {' '.join(cells)[:40]!r}; expected how many points and faces there are"
        )
    return int(cells[0]), int(cells[1])


def _point(line: tuple[int, list[str]], path: Path) -> list[float]:
    number, cells = line
    try:
        x, y, z = (float(cell) for cell in cells[:3])
    except ValueError:
        raise DataError(f"{path}, line {number}: {' '.join(cells)[:40]!r} is not a point, x y z") from None
    return [x, y, z]


def _polygon(line: tuple[int, list[str]], path: Path) -> list[int]:
    number, cells = line
    try:
        count, *corners = (int(cell) for cell in cells[: 1 + int(cells[0])])
    except ValueError:
        corners, count = [], -1
    if len(corners) != count:
        raise DataError(
            f"{path}, line {number}: {' '.join(cells)[:40]!r} is not a face, its number of corners and then these"
        )
    return corners
