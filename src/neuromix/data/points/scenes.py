"""Scenes: labelled point clouds of a ground with solids on it, out of a generator.

The class of a point is that of its solid, or "ground". What a point sends back (its strength) is drawn a solid, so
that only the shape tells the class.

Shapes: N points.
"""

from __future__ import annotations

import numpy as np

from neuromix.data.points.shapes import FOUR, Chance, turned
from neuromix.data.points.value import Floats, PointCloud

CLASSES = ("ground", *FOUR)
SIDE = 4.0  # metres, of the ground
_GROUND_SHARE = 0.4  # of the points
_SOLIDS = (3, 6)  # how many, both included


def scene_cloud(count: int, noise: float, chance: Chance) -> PointCloud:
    """A scene of `count` points: solids and their places, sizes and turns are drawn.

    Args:
        noise: metres, the deviation of each coordinate.
    """
    solids = int(chance.integers(_SOLIDS[0], _SOLIDS[1] + 1))
    on_ground = round(_GROUND_SHARE * count)
    shares = np.full(solids, (count - on_ground) // solids)
    shares[: (count - on_ground) % solids] += 1
    ground_N3 = np.concatenate(
        [chance.uniform(-SIDE / 2, SIDE / 2, (on_ground, 2)), np.zeros((on_ground, 1))], 1
    )
    xyz, label, strength = [ground_N3], [np.zeros(on_ground)], [np.full(on_ground, chance.random())]
    cells = chance.permutation(9)[:solids]  # of a raster, so that solids do not meet
    for cell, points in zip(cells, shares, strict=True):
        kind = int(chance.integers(len(FOUR)))
        place = SIDE / 3 * (np.array([cell % 3, cell // 3]) - 1) + chance.uniform(-0.15, 0.15, 2)
        xyz.append(_solid(kind, int(points), place, chance))
        label.append(np.full(points, kind + 1))
        strength.append(np.full(points, chance.random()))
    xyz_N3 = np.concatenate(xyz) + noise * chance.standard_normal((count, 3))
    strength_N = np.concatenate(strength) + 0.05 * chance.standard_normal(count)
    return PointCloud(xyz_N3, strength=strength_N, label=np.concatenate(label))


def _solid(kind: int, count: int, place: Floats, chance: Chance) -> Floats:
    """Points of a solid that stands on the ground, 0.7 to 1 metre wide."""
    xyz_N3: Floats = list(FOUR.values())[kind](count, chance)[0]
    xyz_N3 = xyz_N3 @ turned(chance.uniform(0, 2 * np.pi))
    wide = np.abs(xyz_N3[:, :2]).max()
    xyz_N3 = xyz_N3 * chance.uniform(0.35, 0.5) / wide
    xyz_N3[:, 2] -= xyz_N3[:, 2].min()
    xyz_N3[:, :2] += place
    return xyz_N3
