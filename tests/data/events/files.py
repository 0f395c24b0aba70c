"""Event files as cameras and data sets write them, made from their specifications; and events to write."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from neuromix.data.events import Events


def some_events(
    count: int = 50, height: int = 20, width: int = 30, seed: int = 0, duration: int = 100_000
) -> Events:
    chance = np.random.default_rng(seed)
    t_N = np.sort(chance.integers(0, duration, count))
    x_N, y_N = chance.integers(0, width, count), chance.integers(0, height, count)
    return Events(t_N, x_N, y_N, chance.random(count) < 0.5, height, width)


def assert_same(one: Events, other: Events) -> None:
    for mine, theirs in zip(one[:4], other[:4], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (one.height, one.width) == (other.height, other.width)


def write_aedat2(path: Path, events: Events, camera: str = "DVS128") -> None:
    """What jAER writes of a DVS128, whose sensor is 128 x 128, or of a DAVIS240C, 180 x 240."""
    lines = ["#!AER-DAT2.0", "# This is a raw AE data file", f"# AEChip: net.sf.jaer.chip.{camera}"]
    x, y = events.width - 1 - events.x_N.astype(np.int64), events.height - 1 - events.y_N.astype(np.int64)
    if camera == "DVS128":
        addresses = y << 8 | x << 1 | ~events.p_N
    else:
        addresses = y << 22 | x << 12 | events.p_N.astype(np.int64) << 11
    words = np.stack([addresses, events.t_N], axis=1).astype(">u4")
    path.write_bytes("".join(line + "\r\n" for line in lines).encode() + words.tobytes())


def write_aedat3(path: Path, events: Events, packets: int = 3, overflow: int = 0) -> None:
    """What cAER writes; packets of another kind stand between those of events."""
    header = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
    parts = [header]
    for chosen in np.array_split(np.arange(events.size), packets):
        x, y, p = (column[chosen].astype(np.int64) for column in (events.x_N, events.y_N, events.p_N))
        words = np.stack([x << 17 | y << 2 | p << 1 | 1, events.t_N[chosen]], axis=1).astype("<u4")
        parts.append(struct.pack("<hhiiiiii", 1, 1, 8, 4, overflow, len(words), len(words), len(words)))
        parts.append(words.tobytes())
        parts.append(struct.pack("<hhiiiiii", 0, 1, 8, 4, overflow, 1, 1, 1) + bytes(8))
    path.write_bytes(b"".join(parts))


_STREAMS = """<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/"><node name="0" path="/o/0/">
<attr key="compression" type="string">NONE</attr><attr key="originalModuleName" type="string">capture</attr>
<attr key="originalOutputName" type="string">events</attr><attr key="typeDescription" type="string">Events.</attr>
<attr key="typeIdentifier" type="string">EVTS</attr><node name="info" path="/o/0/info/">
<attr key="sizeX" type="int">%d</attr><attr key="sizeY" type="int">%d</attr><attr key="source" type="string">DVX</attr>
</node></node></node></dv>"""


def write_aedat4(path: Path, events: Events, packets: int = 2) -> None:
    """What DV writes, without compression: a flatbuffer of the streams, then one for each packet."""
    streams = (_STREAMS % (events.width, events.height)).replace("\n", "").encode()
    table = struct.pack("<HHHHH6x", 10, 16, 0, 8, 4) + struct.pack("<iIq", 16, 12, -1)
    body = struct.pack("<I4s", 24, b"IOHE") + table + struct.pack("<I", len(streams)) + streams + b"\0"
    parts = [b"#!AER-DAT4.0\r\n", struct.pack("<I", len(body)), body]
    record = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("on", "?"), ("pad", "V3")])
    for chosen in np.array_split(np.arange(events.size), packets):
        records = np.zeros(len(chosen), record)
        for name, column in zip(("t", "x", "y", "on"), events[:4], strict=True):
            records[name] = column[chosen]
        table = struct.pack("<HHH2x", 6, 8, 4) + struct.pack("<iI4xI", 8, 8, len(records))
        body = struct.pack("<I4s", 16, b"EVTS") + table + records.tobytes()
        parts += [struct.pack("<iiI", 0, len(body) + 4, len(body)), body]
    path.write_bytes(b"".join(parts))


def write_hdf5(
    path: Path, spikes: list[tuple[np.ndarray, np.ndarray]], labels: list[int], names: list[str]
) -> None:
    """The layout of SHD; spikes: times in seconds and units of each recording."""
    import h5py

    with h5py.File(path, "w") as file:
        times = file.create_dataset("spikes/times", (len(spikes),), h5py.vlen_dtype(np.float16))
        units = file.create_dataset("spikes/units", (len(spikes),), h5py.vlen_dtype(np.uint16))
        for i, (seconds, channels) in enumerate(spikes):
            times[i], units[i] = seconds.astype(np.float16), channels.astype(np.uint16)
        file["labels"] = np.array(labels, np.uint16)
        file["extra/keys"] = np.array([name.encode() for name in names])
