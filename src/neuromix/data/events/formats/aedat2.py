"""`.aedat`, version 2.0: what jAER writes; the format of CIFAR10-DVS and many older recordings.

After a header of lines that begin with `#` come records of two big-endian numbers of 32 bits: address and time in
microseconds. What the bits of an address mean depends on the camera, which the header names; without a name it is
a DVS128. Columns are counted from the right and rows from the bottom, as jAER has them; here both are turned.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from neuromix.data.events.formats.raw import Part, Raw, bytes_of, header_lines, records_of

_RECORD = np.dtype([("address", ">u4"), ("time", ">i4")])


class _Camera(NamedTuple):
    height: int
    width: int
    x: tuple[int, int]  # mask and shift of the column
    y: tuple[int, int]
    polarity: int  # bit
    on: int  # its value where a pixel became brighter
    other: int  # bits of which one is set where a record is no event: a sample of an image, a trigger


def _davis(height: int, width: int) -> _Camera:
    return _Camera(height, width, (0x003FF000, 12), (0x7FC00000, 22), 11, on=1, other=0x80000400)


_CAMERAS = {
    "dvs128": _Camera(128, 128, (0xFE, 1), (0x7F00, 8), 0, on=0, other=0xFFFF8000),
    "davis240": _davis(180, 240),
    "davis346": _davis(260, 346),
}
_END = b"#End Of ASCII Header"


def read(path: Path, part: Part) -> Raw:
    """Reads a file."""
    data = bytes_of(path)
    lines, start = header_lines(data, path, _END)
    camera = _camera(" ".join(lines).lower())
    records = records_of(data[start:], _RECORD, path)
    address, time = records["address"].astype(np.int64), records["time"]
    kept = address & camera.other == 0
    address, time = address[kept], time[kept]
    x = camera.width - 1 - _field(address, *camera.x)
    y = camera.height - 1 - _field(address, *camera.y)
    on = (address >> camera.polarity & 1) == camera.on
    return Raw(time, x, y, on, (camera.height, camera.width))


def _camera(header: str) -> _Camera:
    return next((camera for name, camera in _CAMERAS.items() if name in header), _CAMERAS["dvs128"])


def _field(address: npt.NDArray[np.int64], mask: int, shift: int) -> npt.NDArray[np.int64]:
    return (address & mask) >> shift
