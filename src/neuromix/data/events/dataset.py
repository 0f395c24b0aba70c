"""EventDataset: one part of a set of labelled recordings, as the tensors that a network takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from neuromix.core.errors import ConfigError, DataError, suggest
from neuromix.data.broken import without_broken
from neuromix.data.dataset import Sample
from neuromix.data.events.augment import Augment
from neuromix.data.events.formats.raw import Sensor
from neuromix.data.events.four_motions import NAME as FOUR_MOTIONS
from neuromix.data.events.four_motions import FourMotions
from neuromix.data.events.recordings import open_recordings
from neuromix.data.events.representations import ByCount, Representation
from neuromix.data.events.simulated import PRESETS, SimulatedEvents
from neuromix.data.events.sources import EventSource
from neuromix.data.events.transforms import clip, resized
from neuromix.data.events.value import LARGEST_SIDE, Events
from neuromix.data.splits import Rows, complete, few_of_each, require_part

# Data that no camera recorded: name -> source of (data, sensor, simulation).
SIMULATED: Mapping[str, Callable[..., EventSource]] = {
    **dict.fromkeys(PRESETS, SimulatedEvents),
    FOUR_MOTIONS: FourMotions,
}


@dataclass(frozen=True)
class EventDataset:
    """One part of an event data set, which also knows the others.

    A sample is {`representation.field`: what the representation makes, "label": int}: with frames "image" [T, 2, H, W],
    float32. Where a recording gives several clips, each is a sample, with "recording": int, which of the part it is of.

    Attributes:
        source: where the recordings come from.
        splits: rows of "train", "validation" and "test".
        height, width: of the sensor, after resizing.
        representation: how events become tensors.
        skipped: broken recordings that were left out.
        part: the split that this is.
        augment: changes the events, after resizing.
        fresh: ask the source for a new recording every time, instead of the one that a row has in every run. Files
            have but one.
        window: microseconds of a clip; None: the whole recording is one.
        clips: of each recording, evenly spread from its beginning to its end; None: one, which begins anywhere.
    """

    source: EventSource
    splits: Mapping[str, Rows]
    height: int
    width: int
    representation: Representation
    skipped: int = 0
    part: str = "train"
    augment: Augment | None = None
    fresh: bool = False
    window: int | None = None
    clips: int | None = 1

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def split(self, part: str, augment: Augment | None = None, fresh: bool = False) -> EventDataset:
        """The part "train", "validation" or "test", with this augmentation.

        Raises:
            UnknownNameError: no such part.
        """
        return replace(self, part=require_part(part, self.splits), augment=augment, fresh=fresh)

    def with_few(self, count: int) -> EventDataset:
        """With so many training recordings of each class; the other parts stay whole.

        Raises:
            DataError: a class has fewer.
        """
        train = few_of_each(self.splits["train"], self.source.labels, self.classes, count)
        return replace(self, splits={**self.splits, "train": train})

    @property
    def recordings(self) -> int:
        """Number of recordings of this part."""
        return len(self.splits[self.part])

    def __len__(self) -> int:
        return self.recordings * (self.clips or 1)

    def events(self, index: int, generator: torch.Generator) -> Events:
        """The events of a sample, before they are represented.

        Raises:
            DataError: the recording is broken.
        """
        recording, number = divmod(index, self.clips or 1)
        row = int(self.splits[self.part][recording])
        events = resized(self.source.read(row, generator if self.fresh else None), self.height, self.width)
        if self.window is not None:
            events = clip(events, self.window, self._share(number, generator))
        return events if self.augment is None else self.augment(events, generator)

    def _share(self, number: int, generator: torch.Generator) -> float:
        """Where a clip begins, from 0, the first beginning that there can be, to 1, the last."""
        if self.clips is None:
            return float(torch.rand((), generator=generator))
        return number / (self.clips - 1) if self.clips > 1 else 0.5

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The recording `index` of this part.

        Raises:
            DataError: it is broken.
        """
        represented = self.representation(self.events(index, generator), generator)
        recording = index // (self.clips or 1)
        label = int(self.source.labels[self.splits[self.part][recording]])
        sample = {self.representation.field: represented, "label": label}
        return sample if self.clips in (None, 1) else {**sample, "recording": recording}


def open_events(
    data: str | Path,
    *,
    representation: Representation | None = None,
    size: int | Sensor | None = None,
    sensor: Sensor | None = None,
    simulation: Mapping[str, Any] | None = None,
    sort: bool = False,
    skip_broken: bool = False,
) -> EventDataset:
    """Opens an event data set as its training part; `.split("test")` gives the others.

    Args:
        data: `digits-dvs`, `cifar10-dvs-sim:FOLDER` or `images-dvs:FOLDER` (see `simulated`), `four-motions` or
            `four-motions:CLIPS` (see `four_motions`), or a folder of recordings (see `recordings`).
        representation: how events become tensors; by default frames of equal numbers of events.
        size: side of a square, or (height, width), to which the addresses of the events are brought. None: the
            sensor's. A simulated sensor has this size itself.
        sensor: (height, width) of the recordings, where their files do not tell it.
        simulation: values of `simulated.Simulation` that differ.
        sort: bring events into the order of time instead of refusing files that have them in another.
        skip_broken: read every recording once now, leave broken ones out and count them in `skipped`.

    Raises:
        DataError: the data are missing, empty, malformed or of one class.
        ConfigError: a number out of its range.
        MissingExtraError: a library is needed and not installed.

    Example:
        >>> digits = open_events("digits-dvs")
        >>> digits.sample(0, torch.Generator())["image"].shape
        torch.Size([8, 2, 16, 16])
    """
    wanted = as_sensor("size", size)
    try:
        source = _source(str(data), wanted, as_sensor("sensor", sensor), simulation, sort)
    except OSError as error:
        raise DataError(f"cannot read {data}: {error}") from error
    return dataset_of(source, str(data), wanted, representation, skip_broken)


def as_sensor(name: str, size: int | Sensor | None) -> Sensor | None:
    """(height, width) of a side or both.

    Raises:
        ConfigError: a side that no sensor has.
    """
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise ConfigError(f"{name} is 1 to {LARGEST_SIDE} pixels, one side or (height, width); given {size}")
    return sides


def dataset_of(
    source: EventSource,
    name: str,
    size: Sensor | None = None,
    representation: Representation | None = None,
    skip_broken: bool = False,
) -> EventDataset:
    """A data set of any source, with the parts that it lacks cut off its training part.

    Args:
        name: of the data, for messages.

    Raises and other arguments as `open_events`.
    """
    if len(source.classes) < 2:
        raise DataError(f"{name} has one class only, {source.classes[0]!r}; at least two are needed")
    parts, skipped = without_broken(source, "recordings") if skip_broken else (dict(source.parts), 0)
    splits = complete(parts, source.labels, source.classes)
    height, width = size or source.sensor
    return EventDataset(source, splits, height, width, representation or ByCount(), skipped)


def _source(
    data: str, size: Sensor | None, sensor: Sensor | None, simulation: Mapping[str, Any] | None, sort: bool
) -> EventSource:
    simulated = SIMULATED.get(data.partition(":")[0])
    if simulated is not None:
        if sensor is not None:
            raise DataError(f"{data} is simulated: its sensor is as large as `size` says; leave `sensor` out")
        return simulated(data, size, simulation)
    if simulation:
        raise DataError(f"{data} is recorded; `simulation` is for {', '.join(SIMULATED)}")
    folder = Path(data).expanduser()
    if folder.is_dir():
        return open_recordings(folder, sensor, sort)
    if folder.exists():
        raise DataError(f"{folder} is a file; give a folder with one folder of event files a class")
    known = [name if preset.images else f"{name}:FOLDER" for name, preset in PRESETS.items()]
    known.append(FOUR_MOTIONS)
    raise DataError(f"unknown data {data!r}: no such folder, and no such name; {suggest(data, known)}")
