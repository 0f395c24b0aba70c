"""Points on surfaces: drawn from triangles by their areas, or from the points that there are.

Shapes: N points, F triangles.
"""

from __future__ import annotations

import numpy as np

from neuromix.core.errors import DataError
from neuromix.data.points.value import Floats, Integers, PointCloud


def drawn(cloud: PointCloud, count: int | None, chance: np.random.Generator) -> PointCloud:
    """So many points of a cloud: of a mesh evenly over its surface, with normals; else some of its points.

    Args:
        count: None leaves points as they are, and takes 4096 of a mesh; a cloud that has fewer gives all.

    Raises:
        DataError: a mesh without area.
    """
    if cloud.faces_F3 is not None:
        xyz_N3, normal_N3 = on_triangles(cloud.xyz_N3, cloud.faces_F3, count or 4096, chance, cloud.where)
        return PointCloud(xyz_N3, normal=normal_N3, where=cloud.where)
    if count is None or count >= len(cloud):
        return cloud
    return cloud.select(np.sort(chance.choice(len(cloud), count, replace=False)))


def on_triangles(
    corners_N3: Floats, faces_F3: Integers, count: int, chance: np.random.Generator, where: str = "the mesh"
) -> tuple[Floats, Floats]:
    """Points drawn evenly over triangles, and the normals of these: [count, 3] each.

    Raises:
        DataError: the triangles have no area.
    """
    a_F3, b_F3, c_F3 = np.moveaxis(corners_N3[faces_F3], 1, 0)
    across_F3 = np.cross(b_F3 - a_F3, c_F3 - a_F3)
    twice_area_F = np.linalg.norm(across_F3, axis=1)
    total = twice_area_F.sum()
    if not (total > 0 and np.isfinite(total)):
        raise DataError(f"{where}: its faces have no area, or one that is too large, to draw points from")
    face_N = chance.choice(len(faces_F3), count, p=twice_area_F / total)
    # A point of a parallelogram, turned over where it lies in the other half.
    u_N1, v_N1 = chance.random((2, count, 1))
    beyond_N1 = u_N1 + v_N1 > 1
    u_N1, v_N1 = np.where(beyond_N1, 1 - u_N1, u_N1), np.where(beyond_N1, 1 - v_N1, v_N1)
    a_N3 = a_F3[face_N]
    xyz_N3 = a_N3 + u_N1 * (b_F3[face_N] - a_N3) + v_N1 * (c_F3[face_N] - a_N3)
    return xyz_N3, across_F3[face_N] / twice_area_F[face_N, None]
