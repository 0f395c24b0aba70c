"""Spike voxel coding: which voxels a cloud fills, and the one point that stands for each.

Shapes: N points, M voxels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from neuromix.core.errors import ConfigError, DataError
from neuromix.data.points.value import Floats, Integers

LARGEST = 2**20  # voxels along an axis


class Voxels(NamedTuple):
    """The voxels of a cloud.

    Attributes:
        coords_M3: int64, from 0 on, each once.
        rows_M: int64, the point that stands for the voxel.
    """

    coords_M3: Integers
    rows_M: Integers


def centred(xyz_N3: Floats) -> Floats:
    """The points about their centroid, the farthest at a distance of 1; a single point lies at 0."""
    xyz_N3 = xyz_N3 - xyz_N3.mean(0)
    radius = np.linalg.norm(xyz_N3, axis=1).max()
    return xyz_N3 / radius if radius > 0 else xyz_N3


def voxelise(xyz_N3: Floats, voxel: float, chance: np.random.Generator | None = None) -> Voxels:
    """voxel(point) = floor(xyz / voxel) - its minimum, along each axis.

    Args:
        voxel: its side, > 0, in the unit of the coordinates.
        chance: draws the point that stands for a voxel; None takes the first.

    Raises:
        ConfigError: a side that is not positive.
        DataError: no point, coordinates that are not finite, or more than a million voxels along an axis.
    """
    if not voxel > 0:
        raise ConfigError(f"the side of a voxel is positive, got {voxel}")
    if not len(xyz_N3) or not np.isfinite(xyz_N3).all():
        raise DataError(f"voxels need points with finite coordinates, got {len(xyz_N3)} points")
    grid_N3 = np.floor(xyz_N3 / voxel)
    grid_N3 -= grid_N3.min(0)
    if grid_N3.max() >= LARGEST:
        raise DataError(
            f"the points spread over {grid_N3.max():.3g} voxels of {voxel}; take larger voxels, or leave far points out"
        )
    coords_N3: Integers = grid_N3.astype(np.int64)
    order_N = np.arange(len(coords_N3)) if chance is None else chance.permutation(len(coords_N3))
    key_N = (coords_N3[order_N] * np.array([LARGEST**2, LARGEST, 1])).sum(1)  # below 2^60
    rows_M = order_N[np.unique(key_N, return_index=True)[1]]
    return Voxels(coords_N3[rows_M], rows_M)
