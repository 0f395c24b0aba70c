"""Recordings: files of events on disk, in the layouts of known data sets and in folders of one's own.

| what lies in the folder | it is read as |
| --- | --- |
| `trials_to_train.txt`, `user01_fluorescent.aedat` and `..._labels.csv`, ... | DVS128 Gesture: a row a gesture |
| `*_train.h5`, `*_test.h5` and perhaps `*_valid.h5` | SHD, SSC: a row a recording |
| `cifar10_airplane_0.aedat`, ... in class folders | CIFAR10-DVS: numbers from 900 on are the test part |
| class folders `0` to `9` of `.bin` files, below `Train/` and `Test/` | N-MNIST, on 34x34 pixels |
| any class folders of event files, perhaps below `train/`, `val/`, `test/` | a row a file |
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Generator

from neuromix.core.errors import DataError
from neuromix.data.class_folders import class_folders
from neuromix.data.events.formats import SUFFIXES, read_events
from neuromix.data.events.formats.hdf5 import Contents, contents
from neuromix.data.events.formats.raw import Sensor
from neuromix.data.events.value import Events
from neuromix.data.splits import Rows

PROBED = 64  # recordings whose sensors stand for all

GESTURES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter-clockwise",
    "left arm clockwise",
    "left arm counter-clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
)


class Piece(NamedTuple):
    """Where a recording lies: in a file, as one of its recordings, or as a part of its time."""

    path: Path
    record: int | None = None
    since: int = 0
    until: int | None = None

    def __str__(self) -> str:
        record = "" if self.record is None else f", record {self.record}"
        return f"{self.path}{record}" + ("" if self.until is None else f", {self.since} to {self.until} us")


@dataclass(frozen=True)
class Recordings:
    """Recordings in files; see EventSource."""

    pieces: Sequence[Piece]
    labels: Rows
    classes: tuple[str, ...]
    parts: Mapping[str, Rows]
    sensor: Sensor = (0, 0)
    sort: bool = False

    def read(self, row: int, generator: Generator | None = None) -> Events:
        piece = self.pieces[row]
        return read_events(
            piece.path,
            record=piece.record,
            sensor=self.sensor,
            since=piece.since,
            until=piece.until,
            sort=self.sort,
        )

    def where(self, row: int) -> str:
        return str(self.pieces[row])


def open_recordings(folder: Path, sensor: Sensor | None = None, sort: bool = False) -> Recordings:
    """Finds the recordings of a folder.

    Args:
        folder: in one of the layouts above.
        sensor: (height, width); None for that of the layout, else for the largest of up to 64 training recordings.
        sort: bring events into the order of time instead of refusing files that have them in another.

    Raises:
        DataError: the folder has no such layout, or a file in it is damaged.
        MissingExtraError: a file needs a library that is not installed.
    """
    if (folder / _TRIALS["train"]).is_file():
        found = _gestures(folder)
    elif any(folder.glob("*_train.h5")):
        found = _hdf5(folder)
    else:
        found = _class_folders(folder)
    if sensor is not None:
        return replace(found, sensor=sensor, sort=sort)
    return replace(found, sensor=found.sensor if any(found.sensor) else _probed(found, sort), sort=sort)


def _probed(found: Recordings, sort: bool) -> Sensor:
    rows = found.parts["train"]
    spaced = rows[np.linspace(0, len(rows) - 1, min(PROBED, len(rows))).astype(np.int64)]
    pieces = [found.pieces[row] for row in spaced]
    read = [read_events(p.path, record=p.record, since=p.since, until=p.until, sort=sort) for p in pieces]
    return max(events.height for events in read), max(events.width for events in read)


# Class folders: N-MNIST, CIFAR10-DVS, and others

_CIFAR10_DVS = re.compile(r"cifar10_\w+_(\d+)\.aedat4?", re.IGNORECASE)
_CIFAR10_DVS_TRAINING = 900  # of each class


def _class_folders(folder: Path) -> Recordings:
    files, labels, classes, parts = class_folders(
        folder, SUFFIXES, "event files", "RECORDING.npz (or .bin, .aedat, ...)"
    )
    numbers = [match and int(match[1]) for match in (_CIFAR10_DVS.fullmatch(path.name) for path in files)]
    if parts.keys() == {"train"} and all(number is not None for number in numbers):
        late = np.array([number is not None and number >= _CIFAR10_DVS_TRAINING for number in numbers])
        if late.any():
            parts = {"train": np.flatnonzero(~late), "test": np.flatnonzero(late)}
    is_nmnist = classes == tuple("0123456789") and all(path.suffix == ".bin" for path in files)
    pieces = [Piece(path, 0 if path.suffix.lower() in (".h5", ".hdf5") else None) for path in files]
    return Recordings(pieces, labels, classes, parts, (34, 34) if is_nmnist else (0, 0))


# SHD and SSC


def _hdf5(folder: Path) -> Recordings:
    pieces: list[Piece] = []
    labels: list[Rows] = []
    parts: dict[str, Rows] = {}
    names: tuple[str, ...] = ()
    for word, part in (("train", "train"), ("valid", "validation"), ("test", "test")):
        for path in sorted(folder.glob(f"*_{word}.h5")):
            held = _checked(contents(path), path)
            rows = np.arange(len(pieces), len(pieces) + len(held.labels))
            parts[part] = np.concatenate([parts.get(part, rows[:0]), rows])
            pieces += [Piece(path, record) for record in range(len(held.labels))]
            labels.append(held.labels)
            names = names or held.names
    joined = np.concatenate(labels)
    classes = names or tuple(map(str, range(int(joined.max()) + 1)))
    if joined.max() >= len(classes):
        raise DataError(
            f"{folder}: the label {joined.max()} is not among the {len(classes)} names of extra/keys"
        )
    return Recordings(pieces, joined, classes, parts)


def _checked(held: Contents, path: Path) -> Contents:
    if not len(held.labels):
        raise DataError(f"{path} holds no recordings")
    if held.labels.min() < 0 or held.labels.max() >= _MOST_CLASSES:
        raise DataError(
            f"{path}: labels go from {held.labels.min()} to {held.labels.max()}; expected 0 and up"
        )
    return held


_MOST_CLASSES = 100_000


# DVS128 Gesture

_TRIALS = {"train": "trials_to_train.txt", "test": "trials_to_test.txt"}


def _gestures(folder: Path) -> Recordings:
    pieces: list[Piece] = []
    labels: list[int] = []
    parts: dict[str, Rows] = {}
    for part, name in _TRIALS.items():
        if not (folder / name).is_file():
            continue
        first = len(pieces)
        for file in _lines(folder / name):
            trials = folder / file.replace(".aedat", "_labels.csv")
            for label, since, until in _trials(trials):
                pieces.append(Piece(folder / file, None, since, until))
                labels.append(label)
        if len(pieces) == first:
            raise DataError(f"{folder / name} names no recordings")
        parts[part] = np.arange(first, len(pieces))
    return Recordings(pieces, np.array(labels, np.int64), GESTURES, parts, (128, 128))


def _trials(path: Path) -> list[tuple[int, int, int]]:
    """(label, begin, end) of each gesture of a recording; the file counts classes from 1 on."""
    found = []
    for number, row in enumerate(csv.reader(_lines(path)[1:]), 2):
        try:
            label, since, until = (int(cell) for cell in row)
        except ValueError:
            raise DataError(f"{path}, line {number}: {','.join(row)[:40]!r} is not class,start,end") from None
        if not (1 <= label <= len(GESTURES) and 0 <= since < until):
            raise DataError(f"{path}, line {number}: no class {label} from {since} to {until} microseconds")
        found.append((label - 1, since, until))
    return found


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
