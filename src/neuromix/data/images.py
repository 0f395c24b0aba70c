"""Image classification data sets: `open_images` finds the reader, splits and describes what it finds.

| data | splits |
| --- | --- |
| `digits` | of the 1797 digits of scikit-learn, 1100 train, 197 validation and 500 test, stratified |
| a folder with `train-*.parquet` (CIFAR-10 and other sets in the Hugging Face layout) | the files' own |
| a folder of class folders | those of train/, val/ and test/ where they are there |

A missing test part is a stratified 15% of the training images, a missing validation part 10% of what is left
(see `splits`); so CIFAR-10 gives 45,000 / 5,000 / 10,000. The rows are the same in every run; the test part
never selects. The digits' writers are in all parts, so their test accuracy is that for known writers.

Shapes: C channels, H W image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neuromix.core.errors import ConfigError, DataError, suggest
from neuromix.data.augment import Augment
from neuromix.data.broken import without_broken
from neuromix.data.image_sources import Digits, FolderImages, Size, Source
from neuromix.data.parquet import ParquetImages
from neuromix.data.splits import Rows, complete, require_part

NAMES = ("digits", "cifar10")
PROBED = 512  # training images whose size, channels, mean and deviation stand for all

Statistics = tuple[float, ...]  # one number a channel


@dataclass(frozen=True)
class ImageDataset:
    """One part of an image data set, which also knows the others.

    A sample is {"image": image_CHW float32, normalised; "label": int}.

    Attributes:
        source: where the images come from.
        splits: rows of "train", "validation" and "test".
        classes: names of the classes, by label.
        channels, height, width: of every image; channels is 1 or 3.
        mean, std: one number a channel, over training images in [0, 1], by which images are normalised.
        resize: (height, width) to which images are brought; None where all have one size already.
        skipped: broken images that were left out.
        part: the split that this is.
        augment: applied to image_CHW in [0, 1], before it is normalised.
    """

    source: Source
    splits: Mapping[str, Rows]
    channels: int
    height: int
    width: int
    mean: Statistics
    std: Statistics
    resize: Size | None = None
    skipped: int = 0
    part: str = "train"
    augment: Augment | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def split(self, part: str, augment: Augment | None = None) -> ImageDataset:
        """The part "train", "validation" or "test", with this augmentation.

        Raises:
            UnknownNameError: no such part.
        """
        return replace(self, part=require_part(part, self.splits), augment=augment)

    def __len__(self) -> int:
        return len(self.splits[self.part])

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Tensor | int]:
        """The image `index` of this part.

        Raises:
            DataError: the image is broken or of another size than the others.
        """
        row = int(self.splits[self.part][index])
        image_CHW = self.source.read(row, self.channels, self.resize)
        _check_size(self.source, row, image_CHW, (self.height, self.width))
        if self.augment is not None:
            image_CHW = self.augment(image_CHW, generator)
        return {"image": self.normalise(image_CHW), "label": int(self.source.labels[row])}

    def normalise(self, image_CHW: Tensor) -> Tensor:
        """(image - mean) / std, for images [..., C, H, W] in [0, 1]."""
        mean, std = (image_CHW.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (image_CHW - mean) / std


def open_images(
    data: str | Path,
    *,
    size: int | Size | None = None,
    augment: Augment | None = None,
    skip_broken: bool = False,
    mean: Statistics | None = None,
    std: Statistics | None = None,
) -> ImageDataset:
    """Opens an image data set as its training part; `.split("test")` gives the others.

    Args:
        data: `digits`, a folder with `train-*.parquet`, or a folder of class folders.
        size: side of a square, or (height, width): images are scaled until they cover it, and the centre is
            cut out. None: all images have one size and keep it.
        augment: for the training part, see `augment`.
        skip_broken: decode every image once now, leave broken ones out and count them in `skipped`.
        mean: one number a channel, for images in [0, 1]; None takes that of (up to 512) training images.
        std: likewise.

    Raises:
        DataError: the data are missing, empty, malformed, of one class, or of unlike sizes without `size`.
        ConfigError: size, mean or std is out of its range.
        MissingExtraError: Pillow or pyarrow is needed and not installed.

    Example:
        >>> digits = open_images("digits")
        >>> len(digits), len(digits.split("validation")), len(digits.split("test"))
        (1100, 197, 500)
    """
    resize = None if size is None else _as_size(size)
    try:
        source = _source(str(data))
    except OSError as error:
        raise DataError(f"cannot read {data}: {error}") from error
    if len(source.classes) < 2:
        raise DataError(f"{data} has one class only, {source.classes[0]!r}; at least two are needed")
    parts, skipped = without_broken(source, "images") if skip_broken else (source.parts, 0)
    splits = complete(parts, source.labels, source.classes)
    (channels, height, width), own_mean, own_std = _probe(source, splits["train"], resize)
    return ImageDataset(
        source,
        splits,
        channels,
        height,
        width,
        own_mean if mean is None else _as_statistics("mean", mean, channels),
        own_std if std is None else _as_statistics("std", std, channels),
        resize,
        skipped,
        augment=augment,
    )


def _source(data: str) -> Source:
    if data == "digits":
        return Digits()
    folder = Path(data).expanduser()
    if folder.is_dir():
        return _folder_source(folder)
    if folder.exists():
        raise DataError(f"{folder} is a file; give a folder with train-*.parquet files or class folders")
    if data == "cifar10":
        raise DataError("cifar10 is not embedded; give the folder of its train- and test-*.parquet files")
    if folder.name == data:
        raise DataError(f"unknown data {data!r}: no such folder, and no such name; {suggest(data, NAMES)}")
    raise DataError(f"folder {folder} does not exist; give `digits` or a folder of images or Parquet files")


def _folder_source(folder: Path) -> Source:
    if any(folder.glob("train-*.parquet")):
        return ParquetImages(folder)
    if not any(folder.iterdir()):
        raise DataError(f"folder {folder} is empty; expected train-*.parquet files or class folders")
    below = next(folder.glob("*/train-*.parquet"), None)
    if below is not None:
        raise DataError(f"{folder} has its train-*.parquet files in {below.parent}; give that folder")
    other = next(folder.glob("*.parquet"), None)
    if other is not None:
        raise DataError(f"{folder} has {other.name} but no train-*.parquet; name the training files so")
    return FolderImages(folder)


def _probe(
    source: Source, rows: Rows, resize: Size | None
) -> tuple[tuple[int, int, int], Statistics, Statistics]:
    """(channels, height, width), and mean and deviation of each channel, of evenly spaced training images."""
    spaced = rows[np.linspace(0, len(rows) - 1, min(PROBED, len(rows))).astype(np.int64)]
    channels, size, pixels = 1, None, 0
    total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for row in map(int, spaced):
        image_CHW = source.read(row, size=resize).double()
        channels, size = max(channels, image_CHW.shape[0]), size or (image_CHW.shape[1], image_CHW.shape[2])
        _check_size(source, row, image_CHW, size)
        pixels += image_CHW[0].numel()
        total += image_CHW.sum((1, 2))  # a grey image counts for all three channels
        squares += image_CHW.square().sum((1, 2))
    assert size is not None  # every part has rows
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=0).sqrt()
    std[std < 1e-6] = 1.0  # a constant channel stays finite
    return (channels, *size), tuple(mean[:channels].tolist()), tuple(std[:channels].tolist())


def _check_size(source: Source, row: int, image_CHW: Tensor, size: Size) -> None:
    height, width = image_CHW.shape[1:]
    if (height, width) != size:
        raise DataError(
            f"{source.where(row)} has {height}x{width} pixels and others {size[0]}x{size[1]}; "
            "give a size to bring them to"
        )


def _as_size(size: int | Size) -> Size:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ConfigError(f"size is a positive number of pixels or (height, width); given {size}")
    return height, width


def _as_statistics(name: str, values: Statistics, channels: int) -> Statistics:
    if len(values) != channels or (name == "std" and min(values) <= 0):
        raise ConfigError(
            f"{name} needs one number for each of {channels} channels, std above 0; given {values}"
        )
    return tuple(values)
