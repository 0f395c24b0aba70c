"""`.txt`, `.xyz` and `.csv`: a point a line, its numbers set apart by commas or blanks, in the order of `arrays`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuromix.core.errors import DataError
from neuromix.data.points.formats.arrays import of_columns
from neuromix.data.points.formats.bytes import lines_of
from neuromix.data.points.value import PointCloud


def read(path: Path) -> PointCloud:
    """Reads a file."""
    lines = lines_of(path)
    if not lines:
        raise DataError(f"{path} holds no points")
    rows = []
    for number, cells in lines:
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            raise DataError(
                f"{path}, line {number}: {' '.join(cells)[:40]!r} is not a line of numbers"
            ) from None
        if len(rows[-1]) != len(rows[0]):
            raise DataError(
                f"{path}, line {number} has {len(cells)} numbers; expected {len(rows[0])}, as the first line"
            )
    return of_columns(np.array(rows), str(path))
