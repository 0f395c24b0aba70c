"""PointDataset: one part of a set of labelled point clouds, as the voxels that a network takes.

Shapes: N points, M voxels, C features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from neuromix.core.batch import Ragged
from neuromix.core.config import Config
from neuromix.core.errors import DataError, suggest
from neuromix.data.broken import without_broken
from neuromix.data.dataset import Sample
from neuromix.data.points.shapes import Chance, turned
from neuromix.data.points.sources import (
    SHAPES,
    GeneratedScenes,
    GeneratedShapes,
    PointSource,
    chance_of,
    cloud_folders,
    recorded_chance,
    scene_files,
)
from neuromix.data.points.surface import drawn
from neuromix.data.points.value import Floats, Integers, PointCloud
from neuromix.data.points.voxels import centred, voxelise
from neuromix.data.splits import Rows, complete, require_part

GENERATED_POINTS = 512  # of a generated shape, where nothing is said
SCENE_POINTS = 4096


@dataclass(frozen=True)
class Views(Config):
    """How a cloud becomes voxels, and how it is changed before that in training."""

    points: int | None = None  # drawn of each cloud, or of its surface; None: all, 4096 of a surface
    voxel: float = 0.1  # side, in the unit of the coordinates once they are centred
    centre: bool = True  # subtract the centroid and divide by the largest radius
    turn: bool = True  # about z, by any angle
    scale: float = 0.1  # sizes from 1 - scale to 1 + scale, in [0, 1)
    shift: float = 0.2  # of each coordinate, from -shift to shift

    def validate(self) -> None:
        self.require_positive("voxel")
        self.require_within(0, 1, "scale")
        self.require(self.shift >= 0, f"shift must be 0 or more, got {self.shift}")
        if self.points is not None:
            self.require_positive("points")


@dataclass(frozen=True)
class PointDataset:
    """One part of a set of point clouds, which also knows the others.

    A sample has "cloud", a Ragged of one sample: features [M, C] float32, of the point that stands for each voxel, with
    the extra "coords" [M, 3] int64; and "label": an int, or where each point has a class a Ragged [M] int64, -1 for
    none.

    Attributes:
        source: where the clouds come from.
        splits: rows of "train", "validation" and "test".
        features: "xyz" and perhaps "normal" and "strength": what the features are, in this order.
        views: how clouds become voxels.
        of_points: whether it is each point that has a class.
        skipped: broken clouds that were left out.
        part: the split that this is.
        augment: change clouds, as `views` says, and let any point stand for its voxel.
        fresh: ask the source for a new cloud every time. Files have but one.
    """

    source: PointSource
    splits: Mapping[str, Rows]
    features: tuple[str, ...]
    views: Views
    of_points: bool = False
    skipped: int = 0
    part: str = "train"
    augment: bool = False
    fresh: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def channels(self) -> int:
        """Features of a voxel, C."""
        return sum(_WIDTHS[name] for name in self.features)

    def split(self, part: str, *, augment: bool = False, fresh: bool = False) -> PointDataset:
        """The part "train", "validation" or "test".

        Raises:
            UnknownNameError: no such part.
        """
        return replace(self, part=require_part(part, self.splits), augment=augment, fresh=fresh)

    def __len__(self) -> int:
        return len(self.splits[self.part])

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The cloud `index` of this part.

        Raises:
            DataError: it is broken, or lacks what the first of the training part has.
        """
        row = int(self.splits[self.part][index])
        cloud = self.source.read(row, generator if self.fresh else None)
        chance = chance_of(generator) if self.augment else recorded_chance(row)
        cloud = drawn(cloud, self.views.points, chance)
        xyz_N3 = centred(cloud.xyz_N3) if self.views.centre else cloud.xyz_N3
        normal_N3 = cloud.normal_N3
        if self.augment:
            xyz_N3, normal_N3 = _changed(xyz_N3, normal_N3, self.views, chance)
        coords_M3, rows_M = voxelise(xyz_N3, self.views.voxel, chance if self.augment else None)
        columns = {"xyz": xyz_N3, "normal": normal_N3, "strength": cloud.strength_N}
        features_NC = np.concatenate([self._column(cloud, name, columns[name]) for name in self.features], 1)
        features_MC = torch.from_numpy(features_NC[rows_M].astype(np.float32))
        voxels = Ragged.of([features_MC], coords=[torch.from_numpy(coords_M3)])
        return {"cloud": voxels, "label": self._label(row, cloud, rows_M)}

    def _column(self, cloud: PointCloud, name: str, values: Floats | None) -> Floats:
        if values is None:
            raise DataError(
                f"{cloud.where} has no {name}, which the first cloud has; give all or none of them one"
            )
        return values.reshape(len(values), -1)

    def _label(self, row: int, cloud: PointCloud, rows_M: Integers) -> int | Ragged:
        if not self.of_points:
            return int(self.source.labels[row])
        if cloud.label_N is None:
            raise DataError(
                f"{cloud.where} has no class for each point; expected a 'label' beside the coordinates"
            )
        if cloud.label_N.max() >= len(self.classes):
            raise DataError(
                f"{cloud.where} has the class {cloud.label_N.max()}; expected 0 to {len(self.classes) - 1}, or -1"
            )
        return Ragged.of([torch.from_numpy(cloud.label_N[rows_M])])


_WIDTHS = {"xyz": 3, "normal": 3, "strength": 1}


def open_points(
    data: str | Path, views: Views | None = None, *, normals: bool = True, skip_broken: bool = False
) -> PointDataset:
    """Opens clouds with one class each, as their training part.

    Args:
        data: `shapes` or `shapes-10` (see `sources`), or a folder with one folder of clouds a class.
        normals: make them features, where the clouds have them.
        skip_broken: read every file once now, leave broken ones out and count them in `skipped`.

    Raises:
        DataError: the data are missing, empty, malformed or of one class.

    Example:
        >>> cloud = open_points("shapes").sample(0, torch.Generator())["cloud"]
        >>> cloud.values.shape[1], cloud.extras["coords"].shape[1]
        (6, 3)
    """
    views = views or Views()
    name = str(data)
    source: PointSource
    if name in SHAPES:
        source = GeneratedShapes(SHAPES[name], views.points or GENERATED_POINTS)
    else:
        source = _read(cloud_folders, name, [*SHAPES])
    if len(source.classes) < 2:
        raise DataError(f"{data} has one class only, {source.classes[0]!r}; at least two are needed")
    return _dataset(source, views, normals, skip_broken)


def open_scenes(
    data: str | Path, views: Views | None = None, *, normals: bool = True, skip_broken: bool = False
) -> PointDataset:
    """Opens clouds with a class for each point, as their training part.

    Args:
        data: `scenes` (see `sources`), or a folder of clouds.
        views: by default voxels of 0.1 metres in clouds that are not centred.
        normals, skip_broken: as of `open_points`.

    Raises:
        DataError: the data are missing, empty or malformed.
    """
    views = views or Views(centre=False)
    name = str(data)
    generated = GeneratedScenes(views.points or SCENE_POINTS)
    source = generated if name == "scenes" else _read(scene_files, name, ["scenes"])
    return replace(_dataset(source, views, normals, skip_broken), of_points=True)


def _read(reader: Callable[[Path], PointSource], name: str, known: list[str]) -> PointSource:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise DataError(f"unknown data {name!r}: no such folder, and no such name; {suggest(name, known)}")
    try:
        return reader(folder)
    except OSError as error:
        raise DataError(f"cannot read {name}: {error}") from error


def _dataset(source: PointSource, views: Views, normals: bool, skip_broken: bool) -> PointDataset:
    parts, skipped = without_broken(source, "point clouds") if skip_broken else (dict(source.parts), 0)
    splits = complete(parts, source.labels, source.classes)
    first = source.read(int(splits["train"][0]))
    has = {
        "xyz": True,
        "normal": normals and (first.normal_N3 is not None or first.faces_F3 is not None),
        "strength": first.strength_N is not None,
    }
    return PointDataset(source, splits, tuple(name for name in has if has[name]), views, skipped=skipped)


def _changed(
    xyz_N3: Floats, normal_N3: Floats | None, views: Views, chance: Chance
) -> tuple[Floats, Floats | None]:
    """Turned, scaled and shifted; normals turn along."""
    turn = turned(chance.uniform(0, 2 * np.pi) if views.turn else 0.0)
    scale = 1 + chance.uniform(-views.scale, views.scale)
    shift_3 = chance.uniform(-views.shift, views.shift, 3)
    return xyz_N3 @ turn * scale + shift_3, None if normal_N3 is None else normal_N3 @ turn
