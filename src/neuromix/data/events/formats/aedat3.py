"""`.aedat`, version 3.1: what cAER writes; the format of DVS128 Gesture.

After a header that ends with `#!END-HEADER` come packets: 28 bytes of header (little-endian: type and source in 16
bits each; size of an event, where in it the time is, time overflow, capacity, number of events and of valid ones in
32 bits each), then the events. A polarity event (type 1) is a word of 32 bits - valid (1), polarity (1), y (15),
x (15), from the lowest bit on - and the lower 31 bits of its time in microseconds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError
from neuromix.data.events.formats.raw import Bytes, Part, Raw, Sensor, bytes_of, header_lines

_HEADER, _TIME = struct.Struct("<hhiiiiii"), struct.Struct("<i")
_POLARITY = 1  # the type of packet
_EVENT = np.dtype([("data", "<u4"), ("time", "<i4")])
_SENSORS: dict[str, Sensor] = {"dvs128": (128, 128), "davis240": (180, 240), "davis346": (260, 346)}


class _Packet(NamedTuple):
    start: int  # of its events, in bytes
    size: int  # number of events
    overflow: int  # what the upper bits of their times are


def read(path: Path, part: Part) -> Raw:
    """Reads the packets of a file that hold events of [since, until); others are passed over unread."""
    data = bytes_of(path)
    lines, start = header_lines(data, path, b"#!END-HEADER")
    found = [np.empty((0, 4), np.int64)]
    for packet in _packets(data.data, start, path):
        if packet.size == 0 or _time(data.data, packet, packet.size - 1) < part.since:
            continue
        if part.until is not None and _time(data.data, packet, 0) >= part.until:
            break
        found.append(_events(data, packet))
    t, x, y, p = np.concatenate(found).T
    return Raw(t, x, y, p, _sensor(lines))


def _packets(data: memoryview, position: int, path: Path) -> Iterator[_Packet]:
    number = 0
    while position < len(data):
        if position + _HEADER.size > len(data):
            raise DataError(f"{path} is cut off in the header of packet {number}; get it again")
        kind, _, size, _, overflow, capacity, count, _ = _HEADER.unpack_from(data, position)
        start, position = position + _HEADER.size, position + _HEADER.size + size * capacity
        if size < 1 or not 0 <= count <= capacity or overflow < 0:
            raise DataError(
                f"{path}: packet {number} says that it has {count} of {capacity} events of {size} bytes"
            )
        if position > len(data):
            raise DataError(f"{path} is cut off in packet {number}; get it again")
        if kind == _POLARITY:
            if size != _EVENT.itemsize:
                raise DataError(f"{path}: packet {number} has polarity events of {size} bytes; expected 8")
            yield _Packet(start, count, overflow)
        number += 1


def _time(data: memoryview, packet: _Packet, number: int) -> int:
    """The time of one event of a packet; a few of them tell whether all have to be read."""
    time: int = _TIME.unpack_from(data, packet.start + number * _EVENT.itemsize + 4)[0]
    return time + (packet.overflow << 31)


def _events(data: Bytes, packet: _Packet) -> npt.NDArray[np.int64]:
    """[N, 4]: t, x, y, p of the valid events of a packet."""
    records = np.frombuffer(data, _EVENT, packet.size, packet.start)
    word, time = records["data"].astype(np.int64), records["time"].astype(np.int64)
    columns = (time + (packet.overflow << 31), word >> 17, word >> 2 & 0x7FFF, word >> 1 & 1)
    valid: npt.NDArray[np.int64] = np.stack(columns, axis=1)[(word & 1) == 1]
    return valid


def _sensor(lines: list[str]) -> Sensor | None:
    sources = [line.lower() for line in lines if re.match(r"#Source \d+:", line)]
    return next((size for line in sources for name, size in _SENSORS.items() if name in line), None)
