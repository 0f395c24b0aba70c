"""`.h5` in the layout of SHD and SSC, the spiking Heidelberg digits and speech commands (Cramer et al., 2020).

`spikes/times` (seconds) and `spikes/units` hold one array a recording, `labels` its class, `extra/keys` the names of
the classes. A unit becomes the column of a sensor that is one pixel high, and a spike an ON event. h5py reads it, in
the process of `isolated`: on some damaged files its library crashes or never ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError
from neuromix.data.events.formats.isolated import ask
from neuromix.data.events.formats.raw import Part, Raw, Sensor
from neuromix.data.splits import Rows

CHANNELS = 700  # of the artificial ear that both sets are made with


class Contents(NamedTuple):
    """What a file holds: class and speaker of each recording, [N], and the names of the classes.

    There are no speakers, [0], or names, (), where the file does not tell them.
    """

    labels: Rows
    names: tuple[str, ...]
    speakers: Rows


def contents(path: Path) -> Contents:
    """Reads all of a file but the spikes.

    Raises:
        DataError: the file is damaged or has another layout.
        MissingExtraError: h5py is not installed.
    """
    found = ask("h5py", path)
    speakers = found["speakers"] if found["speakers"].dtype.kind in "iu" else found["speakers"][:0]
    return Contents(
        found["labels"].astype(np.int64),
        tuple(str(name) for name in found["names"]),
        speakers.astype(np.int64),
    )


def read(path: Path, part: Part) -> Raw:
    """Reads one recording of a file."""
    found = ask("h5py", path, part.record)
    seconds, units = found["times"].astype(np.float64), found["units"]
    if not (np.isfinite(seconds).all() and np.abs(seconds).max(initial=0) < _MOST_SECONDS):
        raise DataError(f"{path}, record {part.record}: spike times are seconds, below {_MOST_SECONDS:g}")
    if units.dtype.kind not in "iu":
        raise DataError(f"{path}, record {part.record}: units are {units.dtype}; expected whole numbers")
    t = np.rint(seconds * 1e6).astype(np.int64)
    return Raw(t, units, np.zeros_like(units), np.ones(len(units), bool), _sensor(units), sorted=False)


_MOST_SECONDS = 1e6


def _sensor(units: npt.NDArray[Any]) -> Sensor | None:
    return (1, CHANNELS) if units.size == 0 or units.max() < CHANNELS else None
