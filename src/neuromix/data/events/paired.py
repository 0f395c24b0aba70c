"""Recordings of an event camera, each with a still image of the same class: for learning from both.

An event camera answers to changes of intensity, so of an image only that is used: the value of HSV, which is the
largest of red, green and blue.

Shapes: B batch, T frames, P = 2 polarities, C colours, H W sensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from neuromix.core.errors import DataError
from neuromix.data.class_folders import listed
from neuromix.data.dataset import Sample
from neuromix.data.events.dataset import EventDataset
from neuromix.data.events.simulated import SimulatedEvents
from neuromix.data.image_sources import Source
from neuromix.data.images import open_images
from neuromix.data.splits import Rows

FIELD = "static"


class Partners(NamedTuple):
    """Still images for recordings: where they lie, and which rows are of each class of the recordings."""

    images: Source
    rows: Mapping[int, Rows]


def value_channel(image_CHW: Tensor) -> Tensor:
    """V of HSV, the largest of the colours: [..., C, H, W] to [..., H, W]; of a grey image the image itself."""
    return image_CHW.amax(-3)


def replacement_probability(
    batch: int, epoch: int, batches: int, epochs: int, power: float = 3.0, *, sliding: bool = True
) -> float:
    """How likely a recording takes the place of its image: P = min(1, ((b + e n_b) / (E n_b))^power).

    So training begins with images beside events and ends with events alone.

    Args:
        batch: b, from 0; at b = n_b the epoch is over.
        epoch: e, from 0.
        batches: n_b, of an epoch.
        epochs: E, over which P rises to 1.
        sliding: False: P is 0 until more than half of the epochs are over, then 1.
    """
    if not sliding:
        return float(epoch > epochs / 2)
    return float(min(1.0, ((batch + epoch * batches) / (epochs * batches)) ** power))


def with_replaced(static: Tensor, events: Tensor, p: float, generator: Generator) -> Tensor:
    """A batch [B, ...] of images, of which each is by itself, with probability p, replaced by its recording."""
    replaced_B = torch.rand(len(static), generator=generator) < p
    return torch.where(replaced_B.to(events.device).view(-1, *[1] * (events.dim() - 1)), events, static)


def shown(value_BHW: Tensor, frames_BTPHW: Tensor) -> Tensor:
    """Images in the form of frames of events: the same for both polarities P and all time steps T."""
    return value_BHW[:, None, None].to(frames_BTPHW).expand_as(frames_BTPHW)


def find_partners(events: EventDataset, images: str | Path = "") -> Partners:
    """The training images for recordings, by class.

    Args:
        images: data as `open_images` takes them, which may have more classes; "": the images that simulated
            recordings are made from.

    Raises:
        DataError: the recordings are not simulated and no images are named, or a class has none.
    """
    if not images:
        if not isinstance(events.source, SimulatedEvents):
            raise DataError(
                "these recordings bring no still images along; name a folder with one folder of images a class: "
                "--set method.static=FOLDER"
            )
        source, rows, classes = events.source.images, events.source.parts["train"], events.classes
    else:
        opened = open_images(images, size=(events.height, events.width))
        source, rows, classes = opened.source, opened.splits["train"], opened.classes
    missing = [name for name in events.classes if name not in classes]
    if missing:
        raise DataError(
            f"{images} has no images of {listed(missing)}; classes of images and of recordings go by the same names, "
            f"and it has {listed(classes)}"
        )
    labels = source.labels[rows]
    return Partners(
        source, {label: rows[labels == classes.index(name)] for label, name in enumerate(events.classes)}
    )


@dataclass(frozen=True)
class PairedEvents:
    """Recordings, each with an image that is drawn anew in every epoch from those of its class.

    A sample is that of `events` with "static" [H, W], float32 in [0, 1], beside it.

    Attributes:
        events: the recordings.
        partners: their images.
        balanced: draw the recording as well: first a class, each as likely as the other, then one of its recordings.
    """

    events: EventDataset
    partners: Partners
    balanced: bool = False

    def __len__(self) -> int:
        return len(self.events)

    def sample(self, index: int, generator: Generator) -> Sample:
        """The recording `index`, or where balanced any, and its image.

        Raises:
            DataError: either is broken.
        """
        sample = self.events.sample(self._balanced(generator) if self.balanced else index, generator)
        return {**sample, FIELD: self._image(int(sample["label"]), generator)}  # type: ignore[arg-type]

    def _balanced(self, generator: Generator) -> int:
        labels = self.events.source.labels[self.events.splits[self.events.part]]
        classes = np.unique(labels)
        return _one_of(np.flatnonzero(labels == _one_of(classes, generator)), generator)

    def _image(self, label: int, generator: Generator) -> Tensor:
        image_CHW = self.partners.images.read(_one_of(self.partners.rows[label], generator))
        size = (self.events.height, self.events.width)
        resized_1CHW = F.interpolate(image_CHW[None], size, mode="bilinear", antialias=True)
        return value_channel(resized_1CHW[0]).clamp(0, 1)


def _one_of(rows: Rows, generator: Generator) -> int:
    return int(rows[int(torch.randint(len(rows), (), generator=generator))])
