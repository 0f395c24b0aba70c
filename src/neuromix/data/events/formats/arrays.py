"""`.npy` and `.npz`: events as NumPy arrays.

A structured array with the fields t, x, y and p (others are passed over), a plain one [N, 4] of whole numbers in the
order x, y, t, p, or in an .npz file one array for each of t, x, y and p, perhaps with `height` and `width`. Times
are in microseconds.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from neuromix.core.arrays import DamagedArrayError, load_arrays
from neuromix.core.errors import DataError
from neuromix.core.files import replacing
from neuromix.data.events.formats.raw import Part, Raw, Sensor, bytes_of
from neuromix.data.events.value import Events

_NAMES = ("t", "x", "y", "p")


def read(path: Path, part: Part) -> Raw:
    """Reads a file."""
    data = bytes_of(path)
    try:
        found = _load(data.tobytes())
    except DamagedArrayError as error:
        raise DataError(f"{path} is damaged or no NumPy file of numbers ({error})") from error
    if isinstance(found, dict):
        missing = [name for name in _NAMES if name not in found]
        if missing:
            raise DataError(
                f"{path} has no array {missing[0]!r}; expected t, x, y and p, has {sorted(found)}"
            )
        return Raw(found["t"], found["x"], found["y"], found["p"], _sensor(found, path))
    if found.dtype.names is not None:
        missing = [name for name in _NAMES if name not in found.dtype.names]
        if missing:
            raise DataError(
                f"{path} has no field {missing[0]!r}; expected t, x, y and p, has {list(found.dtype.names)}"
            )
        return Raw(found["t"], found["x"], found["y"], found["p"])
    if found.ndim != 2 or found.shape[1] != 4:
        raise DataError(f"{path} is {list(found.shape)}; expected [N, 4] with x, y, t, p, or named fields")
    x, y, t, p = found.T
    return Raw(t, x, y, p)


def write(path: Path, events: Events) -> None:
    """Writes an .npz file, whole or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            t=events.t_N,
            x=events.x_N,
            y=events.y_N,
            p=events.p_N,
            height=events.height,
            width=events.width,
        )


def _load(data: bytes) -> Any:
    """The array of a file, or its arrays by name; one that is alone and has no name of ours counts as an array."""
    found = load_arrays(io.BytesIO(data))
    if isinstance(found, np.ndarray):
        return found
    alone = len(found) == 1 and found.keys().isdisjoint(_NAMES)
    return next(iter(found.values())) if alone else found


def _sensor(found: dict[str, Any], path: Path) -> Sensor | None:
    if "height" not in found or "width" not in found:
        return None
    sides = [found["height"], found["width"]]
    if any(side.ndim != 0 or side.dtype.kind not in "iu" for side in sides):
        raise DataError(f"{path}: height and width must be whole numbers")
    return int(sides[0]), int(sides[1])
