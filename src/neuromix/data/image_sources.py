"""Where images lie: embedded digits and folders of PNG and JPEG files (Parquet files: see `parquet`).

A source reads one image at a time and knows the class of each; `images.py` makes data sets of it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuromix.core.errors import DataError, MissingExtraError
from neuromix.data.class_folders import class_folders
from neuromix.data.splits import Rows, complete

Size = tuple[int, int]  # (height, width)

SUFFIXES = (".png", ".jpg", ".jpeg")
SKIP_HINT = "replace it, or pass skip_broken=True to leave broken images out"


class Source(Protocol):
    """Images by row, with their classes."""

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

    def read(self, row: int, channels: int | None = None, size: Size | None = None) -> Tensor:
        """The image as image_CHW, float32, in [0, 1].

        Args:
            row: in [0, N).
            channels: 1 for grey, 3 for RGB, None for what the image has.
            size: scale (bilinear) until this is covered, then crop the centre; None for the image's own.

        Raises:
            DataError: the image is broken.
        """
        ...

    def where(self, row: int) -> str:
        """The file, and the row in it, for messages."""
        ...


class Digits:
    """The 1797 handwritten digits of 8x8 pixels and 17 grey levels that scikit-learn carries."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self._images_N1HW = torch.from_numpy(digits.images).float()[:, None] / 16
        self.labels: Rows = digits.target.astype(np.int64)
        self.classes = tuple(str(name) for name in digits.target_names)
        every = {"train": np.arange(len(self.labels))}
        self.parts = complete(every, self.labels, self.classes, test=500 / 1797, validation=197 / 1297)

    def read(self, row: int, channels: int | None = None, size: Size | None = None) -> Tensor:
        image_1CHW = self._images_N1HW[row][None]
        if size is not None:
            image_1CHW = F.interpolate(image_1CHW, size, mode="bilinear", antialias=True)
        return image_1CHW[0].expand(channels or 1, -1, -1)

    def where(self, row: int) -> str:
        return f"digit {row}"


class FolderImages:
    """A folder with one folder of PNG and JPEG files a class, perhaps below train/, val/ and test/.

    See `class_folders`.

    Raises:
        DataError: no class folder, a class folder without images, or classes that training does not have.
        MissingExtraError: Pillow is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require_pillow()
        found = class_folders(folder, SUFFIXES, "images", "IMAGE.png (or .jpg)")
        self._files, self.labels, self.classes, self.parts = found

    def read(self, row: int, channels: int | None = None, size: Size | None = None) -> Tensor:
        return decode(self._files[row], self.where(row), channels, size)

    def where(self, row: int) -> str:
        return str(self._files[row])


def decode(file: Path | io.BytesIO, where: str, channels: int | None, size: Size | None) -> Tensor:
    """A PNG or JPEG file as image_CHW, float32, in [0, 1]; arguments as for `Source.read`.

    Raises:
        DataError: the file cannot be decoded; it is named by `where`.
    """
    Image, ImageOps = require_pillow()
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip instead of scaling
                image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
            grey = image.mode in ("1", "L", "LA", "La")
            image = image.convert("L" if (channels or (1 if grey else 3)) == 1 else "RGB")
    except (*_DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise DataError(
            f"{where} is not a sound PNG or JPEG image ({one_line(error)}); {SKIP_HINT}"
        ) from error
    if size is not None:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
    pixels_HWC = torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1)
    return pixels_HWC.permute(2, 0, 1).contiguous().float() / 255


# What Pillow's decoders raise on damaged files.
_DECODE_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
)


def require_pillow() -> tuple[Any, Any]:
    """Pillow's modules Image and ImageOps."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingExtraError("reading image files", "vision") from None
    return Image, ImageOps


def one_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
