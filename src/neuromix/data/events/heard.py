"""Pictures that are heard: an image becomes the spikes of an ear, so that what it shows has a second kind of events.

A cursor goes over the image from left to right; the column under it sounds, each row at a pitch of its own, bright
pixels loud (Meijer, IEEE Trans. Biomed. Eng., 1992). The louder a row, the more often its channels fire. Such a sound
has to do with what it stands for even where the class is new, unlike a spoken word: what zero-shot retrieval needs.

Shapes: T steps, N channels, H W image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neuromix.core.errors import ConfigError
from neuromix.data.dataset import Sample, sample_generator
from neuromix.data.image_sources import Source
from neuromix.data.images import open_images
from neuromix.data.splits import Rows, require_part

RECORDED = 20307  # seed of the sounds that are the same in every run; it never changes


def heard(
    image_HW: Tensor,
    steps: int,
    per_row: int = 4,
    rate: float = 0.4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The spikes of an ear that hears an image.

    Channel n in [0, N), N = per_row * H, hears row n // per_row, and step t column t * W // T. At each step it fires
    with probability rate * brightness, brightness in [0, 1].

    Returns:
        [T, N], float32, 0 and 1.

    Raises:
        ConfigError: a number out of its range.
    """
    if steps < 1 or per_row < 1 or not 0 < rate <= 1:
        raise ConfigError(
            f"a sound needs steps and channels of at least 1 and a rate in (0, 1]; got {steps}, {per_row}, {rate}"
        )
    column_T = torch.arange(steps) * image_HW.shape[1] // steps
    chance_TN = rate * image_HW.clamp(0, 1).T[column_T].repeat_interleave(per_row, 1)
    return (torch.rand(chance_TN.shape, generator=generator) < chance_TN).float()


@dataclass(frozen=True)
class HeardImages:
    """One part of a set of images that are heard, which also knows the others.

    A sample is {"audio": [T, N] float32, "length": T, "label": int}, that of `data.audio.dataset`.

    Attributes:
        source: of the images; its rows and parts are those of the sounds.
        splits: rows of "train", "validation" and "test".
        size: (height, width) of the images.
        steps: T.
        per_row: channels of a row of pixels.
        part: the split that this is.
        fresh: draw new spikes every time, instead of those that a row has in every run.
    """

    source: Source
    splits: Mapping[str, Rows]
    size: tuple[int, int]
    steps: int = 40
    per_row: int = 4
    part: str = "train"
    fresh: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.classes

    @property
    def channels(self) -> int:
        """N of a sample."""
        return self.per_row * self.size[0]

    def split(self, part: str, fresh: bool = False) -> HeardImages:
        """The part "train", "validation" or "test".

        Raises:
            UnknownNameError: no such part.
        """
        return replace(self, part=require_part(part, self.splits), fresh=fresh)

    def __len__(self) -> int:
        return len(self.splits[self.part])

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The sound of the image `index` of this part."""
        row = int(self.splits[self.part][index])
        chance = generator if self.fresh else sample_generator(RECORDED, 0, row)
        image_HW = self.source.read(row, 1, self.size)[0]
        x_TN = heard(image_HW, self.steps, self.per_row, generator=chance)
        return {"audio": x_TN, "length": self.steps, "label": int(self.source.labels[row])}


def open_heard(data: str, steps: int = 40, size: int | None = None) -> HeardImages:
    """Images that are heard, as their training part.

    Args:
        data: whatever `open_images` opens, such as `digits`.
        steps: T of a sound, at least 1.
        size: side that the images are brought to; None: they have one size, and keep it.

    Raises:
        DataError: there are no such images.
        ConfigError: a number out of its range.
    """
    images = open_images(data, size=size)
    return HeardImages(images.source, images.splits, (images.height, images.width), steps)
