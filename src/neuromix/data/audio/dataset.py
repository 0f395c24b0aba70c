"""AudioDataset: one part of a set of labelled recordings, as steps of channels."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from neuromix.core.errors import ConfigError, DataError
from neuromix.data.audio.lags import Lags
from neuromix.data.audio.recordings import AudioSource, open_audio_recordings
from neuromix.data.audio.representations import AudioRepresentation, default_representation, require_fit
from neuromix.data.broken import without_broken
from neuromix.data.dataset import Sample
from neuromix.data.splits import Rows, complete, require_part

LAGS = "lags"  # the data that are made, not read
KEPT = 2**30  # bytes of encoded recordings that a data set keeps, so that an ear hears each of them once


@dataclass(frozen=True)
class AudioDataset:
    """One part of an audio data set, which also knows the others.

    A sample is {"audio": [T, N] float32, "length": T, "label": int}; T differs between recordings unless `steps`
    says what it is.

    Attributes:
        source: where the recordings come from.
        splits: rows of "train", "validation" and "test".
        representation: how a recording becomes steps of channels.
        steps: T that every sample is cut or filled with zeros to; None: its own.
        skipped: broken recordings that were left out.
        part: the split that this is.
        encoded: what the representation has made of a row, up to `KEPT` bytes of it.
    """

    source: AudioSource
    splits: Mapping[str, Rows]
    representation: AudioRepresentation
    steps: int | None = None
    skipped: int = 0
    part: str = "train"
    encoded: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.classes

    @property
    def channels(self) -> int:
        """N of a sample."""
        return self.representation.channels(self.source.channels)

    def split(self, part: str) -> AudioDataset:
        """The part "train", "validation" or "test".

        Raises:
            UnknownNameError: no such part.
        """
        return replace(self, part=require_part(part, self.splits))

    def __len__(self) -> int:
        return len(self.splits[self.part])

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The recording `index` of this part.

        Raises:
            DataError: it is broken.
        """
        row = int(self.splits[self.part][index])
        x_TN = self._encode(row)
        if self.steps is not None:
            x_TN = torch.nn.functional.pad(x_TN[: self.steps], (0, 0, 0, max(0, self.steps - len(x_TN))))
        return {"audio": x_TN, "length": len(x_TN), "label": int(self.source.labels[row])}

    def _encode(self, row: int) -> Tensor:
        """What the representation makes of a row, made once while there is room to keep it."""
        if row in self.encoded:
            return self.encoded[row]
        x_TN = self.representation(self.source.read(row))
        if (len(self.encoded) + 1) * x_TN.nbytes <= KEPT:
            self.encoded[row] = x_TN
        return x_TN


def open_audio(
    data: str | Path,
    *,
    representation: AudioRepresentation | None = None,
    steps: int | None = None,
    skip_broken: bool = False,
) -> AudioDataset:
    """Opens a folder of recordings as its training part; `.split("test")` gives the others.

    Args:
        data: a folder in one of the layouts of `recordings`, or `lags`, a made-up task for nets with delays.
        representation: how recordings become tensors; None: `cochlea` of sounds, `bins` of recorded spikes.
        steps: T that every sample is cut or filled up to; None: each has its own.
        skip_broken: read every recording once now, leave broken ones out and count them in `skipped`.

    Raises:
        DataError: the data are missing, empty, malformed or of one class.
        ConfigError: the representation is not made of what the folder holds, or a number out of its range.
        MissingExtraError: a library is needed and not installed.

    Example:
        spoken = open_audio("recordings"); spoken.sample(0, torch.Generator())["audio"].shape   # [T, 70]
    """
    if steps is not None and steps < 1:
        raise ConfigError(f"steps is 1 or more; given {steps}")
    source = Lags() if str(data) == LAGS else _recorded(Path(data).expanduser())
    representation = representation or default_representation(source.takes, source.channels)
    require_fit(representation, source.takes, str(data))
    if len(source.classes) < 2:
        raise DataError(f"{data} has one class only, {source.classes[0]!r}; at least two are needed")
    parts, skipped = without_broken(source, "recordings") if skip_broken else (dict(source.parts), 0)
    splits = complete(parts, source.labels, source.classes)
    shelf = _shelf(source.stamp, representation)
    return AudioDataset(source, splits, representation, steps, skipped, encoded=shelf)


@functools.lru_cache(maxsize=2)
def _shelf(stamp: Hashable, representation: AudioRepresentation) -> dict[int, Tensor]:
    """Shared by all data sets of the same files, so that the runs of a comparison encode them once."""
    return {}


def _recorded(folder: Path) -> AudioSource:
    if not folder.is_dir():
        is_file = "is a file; give the folder that it lies in" if folder.exists() else "is not there"
        raise DataError(
            f"audio data {folder} {is_file}: a folder of WAV files, one folder a class, of FSDD or of SHD; "
            f"or the name {LAGS}"
        )
    try:
        return open_audio_recordings(folder)
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error}") from error
