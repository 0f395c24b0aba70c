"""Places along a route, photographed on several traverses: made up, or from folders of images.

A traverse is one drive along the route, an image a place. Some traverses are references, one is the query; image k
of each shows place k. Of the places, the first ones calibrate (their queries are the validation part), the others
test; references of all places are learnt.

| data | |
| --- | --- |
| `synthetic-places` | a street that is made up, see `synthetic_places` |
| a folder | a folder of PNG and JPEG files a traverse, in the order of their names |

Shapes: H W image, P places.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from neuromix.core.errors import ConfigError, DataError
from neuromix.data.image_sources import SUFFIXES, decode, require_pillow
from neuromix.data.patch_norm import as_bytes, grey, patch_normalised, resized
from neuromix.data.splits import require_part
from neuromix.data.synthetic_places import Street, SyntheticStreet

SYNTHETIC = "synthetic-places"


class Route(Protocol):
    """Images of places."""

    @property
    def traverses(self) -> tuple[str, ...]:
        """Names, references first and the query last."""
        ...

    @property
    def places(self) -> int:
        """P."""
        ...

    def read(self, traverse: int, place: int) -> Tensor:
        """An image [1 or 3, H, W], float32, in [0, 1].

        Raises:
            DataError: it is broken.
        """
        ...


@dataclass(frozen=True)
class PlaceDataset:
    """One part of the images of a route, which also knows the others.

    A sample is {"image": [1, H, W] float32, whole numbers 0 ... 255 over 255; "label": the place; "traverse": which}.

    Attributes:
        route: where the images come from.
        calibration: number of places whose queries are the validation part.
        size: (height, width) to which images are brought.
        window: of the patch normalisation; None leaves the grey values as they are.
        part: "train" are the references of all places, "validation" and "test" queries.
    """

    route: Route
    calibration: int
    size: tuple[int, int]
    window: int | None = 7
    part: str = "train"

    def split(self, part: str) -> PlaceDataset:
        """The part "train", "validation" or "test".

        Raises:
            UnknownNameError: no such part.
        """
        return replace(self, part=require_part(part, ("train", "validation", "test")))

    def __len__(self) -> int:
        places, references = self.route.places, len(self.route.traverses) - 1
        return {
            "train": references * places,
            "validation": self.calibration,
            "test": places - self.calibration,
        }[self.part]

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Tensor | int]:
        """The image `index` of this part, place after place.

        Raises:
            DataError: the image is broken.
        """
        references = len(self.route.traverses) - 1
        traverse, place = references, index + (self.calibration if self.part == "test" else 0)
        if self.part == "train":
            traverse, place = divmod(index, self.route.places)
        return {"image": self._prepared(traverse, place), "label": place, "traverse": traverse}

    def _prepared(self, traverse: int, place: int) -> Tensor:
        image_CHW = resized(self.route.read(traverse, place), self.size)
        # Whole grey values, as image files have them: a flat patch is then flat to the last digit.
        pixels_HW = (255 * grey(image_CHW)).round().clamp(0, 255)
        if self.window is not None:
            pixels_HW = as_bytes(patch_normalised(pixels_HW, self.window))
        return pixels_HW.float()[None] / 255


def open_places(
    data: str | Path,
    *,
    size: int | tuple[int, int] = 28,
    window: int | None = 7,
    places: int | None = None,
    calibration: int | None = None,
    references: Sequence[str] = (),
    query: str | None = None,
    every: int = 1,
    street: Street | None = None,
) -> PlaceDataset:
    """Opens a route as its training part; `.split("test")` gives the others.

    Args:
        data: `synthetic-places`, or a folder of folders.
        size: side, or (height, width).
        window: see PlaceDataset.
        places: how many to use, from the first on; None: all of a folder, 20 made up ones.
        calibration: how many of them calibrate; None: a quarter, one at least.
        references, query: names of folders; by default the last one is the query and the others are references.
        every: of a folder, take each so-many-th image.
        street: how made up places look.

    Raises:
        DataError: the folder is not there, has no traverses or these not, or traverses of unlike lengths.
        ConfigError: no place would be left to test.
        MissingExtraError: Pillow is needed and not installed.
    """
    route: Route
    if str(data) == SYNTHETIC:
        route = SyntheticStreet(places or 20, street or Street())
    else:
        route = FolderRoute(Path(data).expanduser(), tuple(references), query, every, places)
    chosen = max(1, route.places // 4) if calibration is None else calibration
    if not 1 <= chosen < route.places:
        raise ConfigError(
            f"of {route.places} places, 1 to {route.places - 1} calibrate and the others test; got {chosen}"
        )
    return PlaceDataset(route, chosen, size if isinstance(size, tuple) else (size, size), window)


class FolderRoute:
    """A folder of images a traverse.

    Args:
        folder: has the folders.
        references, query: their names, see `open_places`.
        every: take each so-many-th image.
        places: how many of these.

    Raises:
        DataError, MissingExtraError: as `open_places`.
    """

    def __init__(
        self, folder: Path, references: tuple[str, ...], query: str | None, every: int, places: int | None
    ) -> None:
        require_pillow()
        if not folder.is_dir():
            raise DataError(
                f"no folder {folder}; give {SYNTHETIC}, or a folder with a folder of images a traverse"
            )
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        query = query or (found[-1] if found else None)
        self.traverses = (*(references or (name for name in found if name != query)), str(query))
        missing = [name for name in self.traverses if name not in found]
        if missing or len(self.traverses) < 2 or query in self.traverses[:-1]:
            raise DataError(
                f"{folder} needs a reference and a query traverse, a folder each; it has "
                f"{', '.join(found) or 'no folders'}, and asked for are {', '.join(self.traverses)}"
            )
        files = [_images(folder / name)[::every] for name in self.traverses]
        lengths = dict(zip(self.traverses, map(len, files), strict=True))
        if len(set(lengths.values())) > 1:
            raise DataError(f"traverses of one route have an image a place each; {folder} has {lengths}")
        self.places = min(len(files[0]), places or len(files[0]))
        if self.places < (places or 2):
            raise DataError(f"{folder} has {self.places} places, needed are {places or 2}")
        self._files = files

    def read(self, traverse: int, place: int) -> Tensor:
        file = self._files[traverse][place]
        return decode(file, str(file), None, None)


def _images(folder: Path) -> list[Path]:
    """The image files, in the order of their names, in which 2 comes before 10."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]

    def key(path: Path) -> list[tuple[int, str]]:
        return [
            (int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)
        ]

    return sorted(files, key=key)
