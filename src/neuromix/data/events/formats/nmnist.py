"""`.bin`: events of 40 bits, the format of N-MNIST and N-Caltech101 (Orchard et al., 2015).

A record is, from the highest bit on: x (8), y (8), polarity (1), time in microseconds (23). A record with y = 240 is
no event: it says that 2^13 microseconds are to be added to all times after it. The format knows no sensor size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuromix.core.errors import DataError
from neuromix.core.files import replacing
from neuromix.data.events.formats.raw import Part, Raw, bytes_of, records_of
from neuromix.data.events.value import Events

_RECORD = np.dtype([("x", "u1"), ("y", "u1"), ("high", "u1"), ("low", ">u2")])
_OVERFLOW_Y, _OVERFLOW = 240, 2**13
_LONGEST = 2**23  # microseconds


def read(path: Path, part: Part) -> Raw:
    """Reads a file."""
    records = records_of(bytes_of(path), _RECORD, path)
    overflows = records["y"] == _OVERFLOW_Y
    time = (records["high"].astype(np.int64) & 0x7F) << 16 | records["low"]
    time += _OVERFLOW * np.cumsum(overflows)
    kept = ~overflows
    return Raw(time[kept], records["x"][kept], records["y"][kept], records["high"][kept] >> 7)


def write(path: Path, events: Events) -> None:
    """Writes a file, whole or not at all.

    Raises:
        DataError: a time or an address for which the format has no bits.
    """
    if events.size and (
        events.t_N[-1] >= _LONGEST or events.x_N.max() > 255 or events.y_N.max() >= _OVERFLOW_Y
    ):
        raise DataError(f"{path}: a .bin file has times below 2^23, x below 256 and y below {_OVERFLOW_Y}")
    records = np.empty(events.size, _RECORD)
    records["x"], records["y"] = events.x_N, events.y_N
    records["high"] = events.p_N.astype(np.int64) << 7 | events.t_N >> 16
    records["low"] = events.t_N & 0xFFFF
    with replacing(path) as temporary:
        temporary.write_bytes(records.tobytes())
