"""Reading and writing event files: the suffix of a file tells its format, one module each.

| suffix | format | module |
| --- | --- | --- |
| `.bin` | 40-bit records of N-MNIST and N-Caltech101 | `nmnist` |
| `.aedat` | AEDAT 2.0 (CIFAR10-DVS) and 3.1 (DVS128 Gesture) | `aedat2`, `aedat3` |
| `.aedat4` | AEDAT 4 | `aedat4` |
| `.h5`, `.hdf5` | spikes in the layout of SHD and SSC | `hdf5` |
| `.npy`, `.npz` | NumPy arrays | `arrays` |
| `.csv`, `.txt` | an event a line | `text` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from neuromix.core.errors import DataError
from neuromix.data.events.formats import aedat2, aedat3, aedat4, arrays, hdf5, nmnist, text
from neuromix.data.events.formats.raw import Part, Raw, Reader, Sensor
from neuromix.data.events.value import Events


def _read_aedat(path: Path, part: Part) -> Raw:
    """AEDAT in the version that the first line of a file tells."""
    try:
        with open(path, "rb") as file:
            line = file.readline(64)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if not line:
        raise DataError(f"{path} is an empty file")
    for start, reader in _AEDAT.items():
        if line.startswith(start):
            return reader(path, part)
    told = line.decode("latin-1").strip()[:20]
    raise DataError(f"{path} begins with {told!r}; expected #!AER-DAT2.0, #!AER-DAT3.1 or #!AER-DAT4.0")


_AEDAT: Mapping[bytes, Reader] = {
    b"#!AER-DAT2.": aedat2.read,
    b"#!AER-DAT3.": aedat3.read,
    b"#!AER-DAT4.": aedat4.read,
}
_READERS: Mapping[str, Reader] = {
    ".bin": nmnist.read,
    ".aedat": _read_aedat,
    ".aedat4": aedat4.read,
    ".h5": hdf5.read,
    ".hdf5": hdf5.read,
    ".npy": arrays.read,
    ".npz": arrays.read,
    ".csv": text.read,
    ".txt": text.read,
}
_WRITERS: Mapping[str, Callable[[Path, Events], None]] = {
    ".bin": nmnist.write,
    ".npz": arrays.write,
    ".csv": text.write,
    ".txt": text.write,
}
SUFFIXES = tuple(_READERS)
_OF_MANY = (".h5", ".hdf5")  # formats with several recordings in a file


def read_events(
    path: str | Path,
    *,
    record: int | None = None,
    sensor: Sensor | None = None,
    since: int = 0,
    until: int | None = None,
    sort: bool = False,
) -> Events:
    """Reads the events of a file.

    Args:
        path: its suffix tells the format, see above.
        record: number of the recording, from 0 on, in a file that holds several.
        sensor: (height, width); None for what the file says, else the smallest that has all the pixels.
        since, until: keep the events of [since, until) only; microseconds of the file's clock.
        sort: bring the events into the order of time instead of refusing a file that has them in another.

    Raises:
        DataError: the file cannot be read, is damaged, or holds no event; or an event has no place on the sensor.
        MissingExtraError: the format needs a library that is not installed.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise DataError(f"{path} is no event file by its suffix {suffix!r}; known: {', '.join(_READERS)}")
    if record is not None and suffix not in _OF_MANY:
        raise DataError(f"{path} holds one recording; record is for {' and '.join(_OF_MANY)} files")
    raw = _READERS[suffix](path, Part(record or 0, since, until))
    where = f"{path}" + (f", record {record or 0}" if suffix in _OF_MANY else "")
    height, width = sensor or raw.sensor or (None, None)
    events = Events(raw.t, raw.x, raw.y, raw.p, height, width, where=where, sort=sort or not raw.sorted)
    if since > 0 or until is not None:
        inside = events.t_N >= since
        events = events.select(inside if until is None else inside & (events.t_N < until))
    if not events.size:
        raise DataError(f"{where} holds no events" + (" of that time" if since or until is not None else ""))
    return events


def write_events(path: str | Path, events: Events) -> None:
    """Writes events, whole or not at all; `.npz` keeps everything, the others not the size of the sensor.

    Raises:
        DataError: no writer has this suffix, or the format has no place for an event.
        RunError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise DataError(f"no event file is written as {path.suffix!r}; known: {', '.join(_WRITERS)}")
    _WRITERS[path.suffix.lower()](path, events)
