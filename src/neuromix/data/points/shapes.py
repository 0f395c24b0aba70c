"""Shapes: labelled point clouds out of a generator, each on the surface of a solid of random proportions.

Shapes of tensors: N points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from neuromix.data.points.surface import on_triangles
from neuromix.data.points.value import Floats, Integers, PointCloud

Chance = np.random.Generator
Points = tuple[Floats, Floats]  # coordinates and normals, [N, 3] each
Shape = Callable[[int, Chance], Points]


def sphere(count: int, chance: Chance) -> Points:
    """Of radius 1."""
    normal_N3 = _directions(count, chance)
    return normal_N3, normal_N3


def torus(count: int, chance: Chance) -> Points:
    """About z, of radius 1 and a tube of 0.25 to 0.45."""
    tube = chance.uniform(0.25, 0.45)
    # The outside of a tube has more area than the inside: angles are drawn by it.
    angle_N = np.empty(0)
    while len(angle_N) < count:
        more = chance.uniform(0, 2 * np.pi, 2 * count)
        angle_N = np.concatenate(
            [angle_N, more[chance.random(2 * count) < (1 + tube * np.cos(more)) / (1 + tube)]]
        )
    out_N, up_N = np.cos(angle_N[:count]), np.sin(angle_N[:count])
    round_N = chance.uniform(0, 2 * np.pi, count)
    normal_N3 = np.stack([out_N * np.cos(round_N), out_N * np.sin(round_N), up_N], 1)
    ring_N3 = np.stack([np.cos(round_N), np.sin(round_N), np.zeros(count)], 1)
    return ring_N3 + tube * normal_N3, normal_N3


def cube(count: int, chance: Chance) -> Points:
    """A box of sides 0.8 to 1.2."""
    return _on_hull(_prism(_CORNERS, _CORNERS), count, chance, chance.uniform(0.8, 1.2, 3))


def pyramid(count: int, chance: Chance) -> Points:
    """Over a square of side 1, of height 0.9 to 1.4."""
    return _on_hull(_prism(_CORNERS, 0 * _CORNERS), count, chance, np.array([1, 1, chance.uniform(0.9, 1.4)]))


def prism(count: int, chance: Chance) -> Points:
    """Over a triangle, of height 0.8 to 1.4."""
    triangle = _polygon(3)
    return _on_hull(_prism(triangle, triangle), count, chance, np.array([1, 1, chance.uniform(0.8, 1.4)]))


def octahedron(count: int, chance: Chance) -> Points:
    """Two pyramids on a square of side 1, each of height 0.6 to 0.9."""
    above = _prism(_CORNERS, 0 * _CORNERS)[2:]  # without its floor
    below = above[:, ::-1] * np.array([1, 1, -1])
    height = chance.uniform(0.6, 0.9)
    return _on_hull(np.concatenate([above, below]), count, chance, np.array([1, 1, height]))


def cone(count: int, chance: Chance) -> Points:
    """Of radius 1 and height 1.5 to 2.5, with its floor."""
    return _round(count, chance, radii=(1.0, 0.0), height=chance.uniform(1.5, 2.5))


def cylinder(count: int, chance: Chance) -> Points:
    """Of radius 1 and height 1.5 to 2.5, with floor and top."""
    return _round(count, chance, radii=(1.0, 1.0), height=chance.uniform(1.5, 2.5))


def hemisphere(count: int, chance: Chance) -> Points:
    """Of radius 1, with its floor."""
    normal_N3 = _directions(count, chance)
    normal_N3[:, 2] = np.abs(normal_N3[:, 2])
    xyz_N3 = normal_N3.copy()
    floor_N = chance.random(count) < 1 / 3  # a floor of pi beside a dome of 2 pi
    xyz_N3[floor_N] = _disk(int(floor_N.sum()), chance)
    normal_N3[floor_N] = (0, 0, -1)
    return xyz_N3, normal_N3


def capsule(count: int, chance: Chance) -> Points:
    """A cylinder of radius 1 and height 1 to 2 between two half spheres."""
    height = chance.uniform(1.0, 2.0)
    normal_N3 = _directions(count, chance)
    xyz_N3 = normal_N3 + np.sign(normal_N3[:, 2:]) * np.array([0, 0, height / 2])
    side_N = chance.random(count) < height / (height + 2)
    round_N = np.arctan2(normal_N3[side_N, 1], normal_N3[side_N, 0])
    normal_N3[side_N] = np.stack([np.cos(round_N), np.sin(round_N), 0 * round_N], 1)
    xyz_N3[side_N] = normal_N3[side_N] + chance.uniform(-0.5, 0.5, (len(round_N), 1)) * np.array(
        [0, 0, height]
    )
    return xyz_N3, normal_N3


FOUR: Mapping[str, Shape] = {"sphere": sphere, "cube": cube, "cone": cone, "torus": torus}
TEN: Mapping[str, Shape] = {
    **FOUR,
    "cylinder": cylinder,
    "pyramid": pyramid,
    "prism": prism,
    "octahedron": octahedron,
    "hemisphere": hemisphere,
    "capsule": capsule,
}


def turned(angle: float) -> Floats:
    """[3, 3]: turns row vectors about z by `angle` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def shape_cloud(shape: Shape, count: int, noise: float, chance: Chance) -> PointCloud:
    """A cloud of one shape: its proportions, turn about z, points and their noise are drawn.

    Args:
        noise: deviation of each coordinate.
    """
    xyz_N3, normal_N3 = shape(count, chance)
    turn = turned(chance.uniform(0, 2 * np.pi))
    return PointCloud(xyz_N3 @ turn + noise * chance.standard_normal((count, 3)), normal=normal_N3 @ turn)


_CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def _polygon(sides: int) -> Floats:
    """[sides, 2], of radius 0.6, counterclockwise."""
    angle = 2 * np.pi * np.arange(sides) / sides
    return 0.6 * np.stack([np.cos(angle), np.sin(angle)], 1)


def _prism(floor_S2: Floats, top_S2: Floats) -> Floats:
    """Triangles [F, corner, 3], seen counterclockwise from outside, between a floor at 0 and a top at 1.

    The floor comes first: its sides - 2 triangles.
    """
    sides = len(floor_S2)
    low, high = (
        np.concatenate([at, np.full((sides, 1), z)], 1) for at, z in ((floor_S2, 0.0), (top_S2, 1.0))
    )
    faces = [[low[0], low[i + 1], low[i]] for i in range(1, sides - 1)]
    for i in range(sides):
        j = (i + 1) % sides
        faces += [[low[i], low[j], high[j]], [low[i], high[j], high[i]]]
    faces += [[high[0], high[i], high[i + 1]] for i in range(1, sides - 1)]
    return np.array(faces)


def _on_hull(faces_F33: Floats, count: int, chance: Chance, scale: Floats) -> Points:
    corners_N3 = (faces_F33 * scale).reshape(-1, 3)
    faces_F3: Integers = np.arange(len(corners_N3)).reshape(-1, 3)
    return on_triangles(corners_N3, faces_F3, count, chance)


def _directions(count: int, chance: Chance) -> Floats:
    """Unit vectors, evenly over the sphere."""
    v_N3 = chance.standard_normal((count, 3))
    unit_N3: Floats = v_N3 / np.linalg.norm(v_N3, axis=1, keepdims=True)
    return unit_N3


def _disk(count: int, chance: Chance, radius: float = 1.0) -> Floats:
    """Points of a disk at z = 0."""
    round_N, far_N = chance.uniform(0, 2 * np.pi, count), radius * np.sqrt(chance.random(count))
    return np.stack([far_N * np.cos(round_N), far_N * np.sin(round_N), np.zeros(count)], 1)


def _round(count: int, chance: Chance, radii: tuple[float, float], height: float) -> Points:
    """A cylinder or cone about z with the radii at 0 and at its height, and its ends."""
    low, high = radii
    slope = np.hypot(height, low - high)
    areas = np.array([(low + high) * slope, low**2, high**2])  # side, floor, top, over pi
    part_N = chance.choice(3, count, p=areas / areas.sum())
    round_N = chance.uniform(0, 2 * np.pi, count)
    # The height of a point of the side, by the rings' lengths: the root of a uniform square of radii.
    if low == high:
        up_N = chance.random(count)
    else:
        up_N = (low - np.sqrt(low**2 + chance.random(count) * (high**2 - low**2))) / (low - high)
    far_N = low + (high - low) * up_N
    xyz_N3 = np.stack([far_N * np.cos(round_N), far_N * np.sin(round_N), height * up_N], 1)
    out, up = height / slope, (low - high) / slope
    normal_N3 = np.stack([out * np.cos(round_N), out * np.sin(round_N), np.full(count, up)], 1)
    for part, radius, z, direction in ((1, low, 0.0, -1.0), (2, high, height, 1.0)):
        at_N = part_N == part
        xyz_N3[at_N] = _disk(int(at_N.sum()), chance, radius) + np.array([0, 0, z])
        normal_N3[at_N] = (0, 0, direction)
    return xyz_N3, normal_N3
