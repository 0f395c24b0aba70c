"""`.npy` and `.npz`: points as NumPy arrays.

In an .npz file `xyz` [N, 3] and perhaps `normal` [N, 3], `strength` [N], `label` [N] and `faces` [F, 3]. Else one array
of columns: x y z; x y z strength; x y z and a normal; or x y z, a normal and a strength.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from neuromix.core.arrays import DamagedArrayError, load_arrays
from neuromix.core.errors import DataError
from neuromix.data.points.formats.bytes import bytes_of
from neuromix.data.points.value import PointCloud

_NAMES = ("normal", "strength", "label", "faces")


def read(path: Path) -> PointCloud:
    """Reads a file."""
    data = bytes_of(path)
    try:
        arrays = load_arrays(io.BytesIO(data))
    except DamagedArrayError as error:
        raise DataError(f"{path} is damaged or no NumPy file of numbers ({error})") from error
    if isinstance(arrays, dict) and "xyz" in arrays:
        known = {name: arrays[name] for name in _NAMES if name in arrays}
        return PointCloud(arrays["xyz"], **known, where=str(path))
    if isinstance(arrays, dict):
        if len(arrays) != 1:
            raise DataError(f"{path} has no array 'xyz'; it has {sorted(arrays) or 'none'}")
        (arrays,) = arrays.values()
    return of_columns(arrays, str(path))


def of_columns(columns: Any, where: str) -> PointCloud:
    """A cloud of one array [N, C] of 3, 4, 6 or 7 columns.

    Raises:
        DataError: another shape.
    """
    if columns.ndim != 2 or columns.shape[1] not in (3, 4, 6, 7):
        raise DataError(
            f"{where} holds {list(columns.shape)} numbers; expected [N, 3] x y z, and perhaps a normal (3 more) "
            "and a strength (1 more)"
        )
    if columns.dtype.kind not in "iuf":
        raise DataError(f"{where} holds {columns.dtype}; expected numbers")
    width = columns.shape[1]
    normal = columns[:, 3:6] if width >= 6 else None
    return PointCloud(
        columns[:, :3], normal=normal, strength=columns[:, -1] if width in (4, 7) else None, where=where
    )
