"""Labelled recordings of sounds on disk.

| what lies in the folder | it is read as |
| --- | --- |
| `7_jackson_32.wav`, ..., in it or in `recordings/` | FSDD, spoken digits: numbers 0 to 4 of each speaker and digit \
are the test part, 5 to 9 the validation part |
| `*_train.h5`, `*_test.h5` and perhaps `*_valid.h5` | SHD, SSC: the spikes of an ear; where there is no `_valid`, \
speakers are left out of training for it |
| any class folders of WAV files, perhaps below `train/`, `val/`, `test/` | a row a file |
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from neuromix.core.errors import DataError
from neuromix.data.audio.wav import Sound, read_wav
from neuromix.data.class_folders import class_folders
from neuromix.data.events.formats.hdf5 import CHANNELS, contents
from neuromix.data.events.recordings import Recordings, open_recordings
from neuromix.data.events.value import Events
from neuromix.data.splits import VALIDATION_SHARE, Rows


class AudioSource(Protocol):
    """Recordings by row, with their classes."""

    @property
    def labels(self) -> Rows:
        """Class of each row: [N], int64, in [0, len(classes))."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...

    @property
    def parts(self) -> Mapping[str, Rows]:
        """Rows of "train" and, where the data bring them, of "validation" and "test"."""
        ...

    @property
    def takes(self) -> type[Any]:
        """What `read` gives: Sound or Events."""
        ...

    @property
    def channels(self) -> int:
        """Of the ear that made the recordings; 0 where they are sounds."""
        ...

    @property
    def stamp(self) -> Hashable:
        """Differs where the recordings do: another folder, or a file that has changed."""
        ...

    def read(self, row: int) -> Any:
        """The recording of a row.

        Raises:
            DataError: the file is damaged.
        """
        ...


@dataclass(frozen=True)
class Sounds:
    """WAV files; see AudioSource."""

    files: Sequence[Path]
    labels: Rows
    classes: tuple[str, ...]
    parts: Mapping[str, Rows]
    takes: ClassVar[type[Any]] = Sound
    channels: ClassVar[int] = 0

    @property
    def stamp(self) -> Hashable:
        return _stamp(self.files)

    def read(self, row: int) -> Sound:
        return read_wav(self.files[row])


@dataclass(frozen=True)
class RecordedSpikes:
    """SHD or SSC; see AudioSource."""

    recordings: Recordings
    parts: Mapping[str, Rows]
    takes: ClassVar[type[Any]] = Events
    channels: ClassVar[int] = CHANNELS

    @property
    def labels(self) -> Rows:
        return self.recordings.labels

    @property
    def classes(self) -> tuple[str, ...]:
        return self.recordings.classes

    @property
    def stamp(self) -> Hashable:
        return _stamp(sorted({piece.path for piece in self.recordings.pieces}))

    def read(self, row: int) -> Events:
        return self.recordings.read(row)


def _stamp(files: Sequence[Path]) -> Hashable:
    found = [(path.resolve(), path.stat()) for path in files]
    return tuple((path, about.st_mtime_ns, about.st_size) for path, about in found)


def open_audio_recordings(folder: Path) -> AudioSource:
    """Finds the recordings of a folder in one of the layouts above.

    Raises:
        DataError: the folder has no such layout.
        MissingExtraError: a file needs a library that is not installed.
    """
    if any(folder.glob("*_train.h5")):
        return _spikes(folder)
    for place in (folder, folder / "recordings"):
        files = sorted(path for path in place.glob("*.wav") if _FSDD.fullmatch(path.name))
        if files:
            return _spoken_digits(files)
    loose = next((path.name for path in folder.glob("*.wav")), None)
    if loose is not None:
        raise DataError(
            f"{folder} holds WAV files such as {loose} without a class; expected {folder}/CLASS/SOUND.wav, "
            "or DIGIT_SPEAKER_NUMBER.wav"
        )
    files, labels, classes, parts = class_folders(folder, (".wav",), "sounds", "SOUND.wav")
    return Sounds(files, labels, classes, parts)


# Free Spoken Digit Dataset

_FSDD = re.compile(r"(\d)_(\w+)_(\d+)\.wav")
_TEST, _VALIDATION = range(5), range(5, 10)  # the numbers of a speaker's recordings of a digit


def _spoken_digits(files: Sequence[Path]) -> Sounds:
    named = [match.groups() for match in (_FSDD.fullmatch(path.name) for path in files) if match]
    classes = tuple(sorted({digit for digit, _, _ in named}))
    labels = np.array([classes.index(digit) for digit, _, _ in named], np.int64)
    number_N = np.array([int(number) for _, _, number in named])
    is_test, is_validation = np.isin(number_N, _TEST), np.isin(number_N, _VALIDATION)
    parts = {"train": ~is_test & ~is_validation, "validation": is_validation, "test": is_test}
    # A part that these files lack is cut off the others.
    found = {part: np.flatnonzero(which) for part, which in parts.items() if which.any()}
    if "train" not in found:
        found = {"train": np.arange(len(files))}
    return Sounds(files, labels, classes, found)


# SHD and SSC


def _spikes(folder: Path) -> RecordedSpikes:
    recordings = open_recordings(folder, (1, CHANNELS))
    parts = dict(recordings.parts)
    speakers = [contents(path).speakers for path in sorted(folder.glob("*_train.h5"))]
    speaker_N = np.concatenate(speakers)
    if "validation" not in parts and len(speaker_N) == len(parts["train"]):
        parts["train"], parts["validation"] = by_speaker(
            parts["train"], speaker_N, recordings.labels[parts["train"]]
        )
    return RecordedSpikes(recordings, {part: rows for part, rows in parts.items() if len(rows)})


def by_speaker(
    rows: Rows, speaker_N: Rows, label_N: Rows, share: float = VALIDATION_SHARE
) -> tuple[Rows, Rows]:
    """Splits whole speakers off, from the last one on, until they have at least `share` of the rows.

    Returns:
        (the rest, the share); the share is empty where no speaker can go without a class going with them.
    """
    held = np.zeros(len(rows), bool)
    for speaker in np.unique(speaker_N)[::-1]:
        if held.mean() >= share:
            break
        more = held | (speaker_N == speaker)
        if set(label_N[~more]) == set(label_N):
            held = more
    return rows[~held], rows[held]
