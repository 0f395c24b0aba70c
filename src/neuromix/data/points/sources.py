"""Where point clouds come from, by row: generators, and folders of files.

| data | what it is |
| --- | --- |
| `shapes` | sphere, cube, cone and torus of random proportions, turned about z; 1000 to train, 200, 400 to test |
| `shapes-10` | these and cylinder, pyramid, prism, octahedron, hemisphere and capsule |
| `scenes` | solids on a ground, a class a point; 300 to train, 60, 100 to test |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Generator

from neuromix.core.errors import DataError
from neuromix.data.class_folders import PARTS, class_folders, listed
from neuromix.data.dataset import sample_generator
from neuromix.data.points.formats import SUFFIXES, read_points
from neuromix.data.points.scenes import CLASSES, scene_cloud
from neuromix.data.points.shapes import FOUR, TEN, Shape, shape_cloud
from neuromix.data.points.value import PointCloud
from neuromix.data.splits import Rows

RECORDED = 20242  # seed of the clouds that are the same in every run; it never changes


class PointSource(Protocol):
    """Clouds by row."""

    @property
    def labels(self) -> Rows:
        """Class of each cloud: [N], int64; zeros where it is each point that has a class."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, of clouds or of points."""
        ...

    @property
    def parts(self) -> Mapping[str, Rows]:
        """Rows of "train" and, where the data bring them, of "validation" and "test"."""
        ...

    def read(self, row: int, generator: Generator | None = None) -> PointCloud:
        """The cloud of a row.

        Args:
            generator: for a new cloud of its kind, where the source can make one. None: the one that the row has in
                every run.

        Raises:
            DataError: the file is damaged.
        """
        ...


def chance_of(generator: Generator) -> np.random.Generator:
    """NumPy's random numbers out of PyTorch's."""
    return np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))


def recorded_chance(row: int) -> np.random.Generator:
    """The random numbers that a row has in every run."""
    return chance_of(sample_generator(RECORDED, 0, row))


class Sizes(NamedTuple):
    """Clouds of each part."""

    train: int
    validation: int
    test: int

    @property
    def parts(self) -> dict[str, Rows]:
        """Their rows, one part after the other."""
        ends = np.cumsum(self)
        rows = (np.arange(end - size, end) for end, size in zip(ends, self, strict=True))
        return dict(zip(self._fields, rows, strict=True))


SHAPE_CLOUDS, SCENE_CLOUDS = Sizes(1000, 200, 400), Sizes(300, 60, 100)


@dataclass(frozen=True)
class GeneratedShapes:
    """Solids; row r is of class r modulo their number. See PointSource.

    Attributes:
        points: of a cloud.
        noise: deviation of each coordinate; the solids have a radius of about 1.
    """

    shapes: Mapping[str, Shape]
    points: int
    noise: float = 0.02
    sizes: Sizes = SHAPE_CLOUDS

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @property
    def labels(self) -> Rows:
        return np.arange(sum(self.sizes)) % len(self.shapes)

    @property
    def parts(self) -> Mapping[str, Rows]:
        return self.sizes.parts

    def read(self, row: int, generator: Generator | None = None) -> PointCloud:
        chance = recorded_chance(row) if generator is None else chance_of(generator)
        shape = self.shapes[self.classes[row % len(self.shapes)]]
        return shape_cloud(shape, self.points, self.noise, chance)


@dataclass(frozen=True)
class GeneratedScenes:
    """Solids on a ground; see PointSource.

    Attributes:
        points: of a cloud.
        noise: metres, deviation of each coordinate.
    """

    points: int
    noise: float = 0.01
    sizes: Sizes = SCENE_CLOUDS
    classes: tuple[str, ...] = CLASSES

    @property
    def labels(self) -> Rows:
        return np.zeros(sum(self.sizes), np.int64)

    @property
    def parts(self) -> Mapping[str, Rows]:
        return self.sizes.parts

    def read(self, row: int, generator: Generator | None = None) -> PointCloud:
        return scene_cloud(
            self.points, self.noise, recorded_chance(row) if generator is None else chance_of(generator)
        )


SHAPES: Mapping[str, Mapping[str, Shape]] = {"shapes": FOUR, "shapes-10": TEN}


@dataclass(frozen=True)
class CloudFiles:
    """Files on disk, a cloud each; see PointSource."""

    files: Sequence[Path]
    labels: Rows
    classes: tuple[str, ...]
    parts: Mapping[str, Rows]

    def read(self, row: int, generator: Generator | None = None) -> PointCloud:
        return read_points(self.files[row])


def cloud_folders(folder: Path) -> CloudFiles:
    """Folders of files, one a class, perhaps below train/, val/ and test/; as in ModelNet also train/ in each class.

    Raises:
        DataError: no such layout.
    """
    found = class_folders(folder, SUFFIXES, "point cloud files", "CLOUD.off (or .ply, .npz, ...)")
    parts = found.parts
    if parts.keys() == {"train"}:
        parts = _parts_below(found.files, folder) or parts
    return CloudFiles(found.files, found.labels, found.classes, parts)


def _parts_below(files: Sequence[Path], folder: Path) -> dict[str, Rows]:
    """The parts that folders below class folders name: CLASS/train/CLOUD.off."""
    named = [PARTS.get(path.relative_to(folder).parts[1].lower(), "") for path in files]
    if "train" not in named or "" in named:
        return {}
    return {part: np.flatnonzero(np.array(named) == part) for part in dict.fromkeys(named)}


_PROBED = 64  # scenes whose labels tell how many classes there are


def scene_files(folder: Path) -> CloudFiles:
    """Files with a class a point, perhaps below train/, val/ and test/.

    `classes.txt` names the classes, one a line; without it they are the numbers up to the largest of 64 scenes.

    Raises:
        DataError: no file, or one without classes.
    """
    tops = {PARTS[path.name.lower()]: path for path in sorted(folder.iterdir()) if path.name.lower() in PARTS}
    tops = tops if "train" in tops else {"train": folder}
    files: list[Path] = []
    parts: dict[str, Rows] = {}
    for part, top in tops.items():
        found = sorted(path for path in top.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        found = [path for path in found if path.name != _NAMES]
        if not found:
            raise DataError(f"{top} holds no scenes; expected files in {listed(SUFFIXES)}")
        parts[part] = np.arange(len(files), len(files) + len(found))
        files += found
    names = folder / _NAMES
    classes = _names(names) if names.is_file() else _numbers([files[row] for row in parts["train"][:_PROBED]])
    return CloudFiles(files, np.zeros(len(files), np.int64), classes, parts)


_NAMES = "classes.txt"


def _names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if len(names) < 2:
        raise DataError(f"{path} names {len(names)} classes; expected two or more, one a line")
    return names


def _numbers(files: Sequence[Path]) -> tuple[str, ...]:
    largest = 0
    for path in files:
        label_N = read_points(path).label_N
        if label_N is None:
            raise DataError(f"{path} has no class for each point; expected a 'label' beside the coordinates")
        largest = max(largest, int(label_N.max()))
    if largest < 1 or largest > 1000:
        raise DataError(f"{files[0].parent}: the largest class is {largest}; expected 1 to 1000")
    return tuple(map(str, range(largest + 1)))
