"""PointCloud: points in space with what is known of each, or a surface of triangles between them.

Shapes: N points, F triangles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from neuromix.core.errors import DataError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class PointCloud:
    """Points, checked where they are made.

    Attributes:
        xyz_N3: float64, coordinates.
        normal_N3: float64, unit vectors out of the surface, or None.
        strength_N: float64, of the echo, or None.
        label_N: int64, the class of each point, -1 for none; or None.
        faces_F3: int64, the rows of the corners of each triangle, where the points are those of a mesh; or None.
    """

    def __init__(
        self,
        xyz: npt.ArrayLike,
        *,
        normal: npt.ArrayLike | None = None,
        strength: npt.ArrayLike | None = None,
        label: npt.ArrayLike | None = None,
        faces: npt.ArrayLike | None = None,
        where: str = "the point cloud",
    ) -> None:
        """Takes anything that NumPy makes arrays of.

        Args:
            where: what messages call it.

        Raises:
            DataError: no point, another shape, a coordinate that is not finite, or a face without its corners.
        """
        self.where = where
        self.xyz_N3: Floats = self._numbers("coordinates", xyz, 2)
        if self.xyz_N3.shape[1:] != (3,):
            raise DataError(
                f"{where}: coordinates are {list(self.xyz_N3.shape)}; expected [N, 3], x y z a point"
            )
        if not len(self.xyz_N3):
            raise DataError(f"{where} holds no points")
        self._require_finite("coordinates", self.xyz_N3)
        self.normal_N3 = None if normal is None else self._of_points("normals", normal, (3,))
        self.strength_N = None if strength is None else self._of_points("strengths", strength, ())
        self.label_N = None if label is None else self._whole("labels", self._of_points("labels", label, ()))
        self.faces_F3 = None if faces is None else self._faces(faces)

    def __len__(self) -> int:
        return len(self.xyz_N3)

    def select(self, rows: Integers) -> PointCloud:
        """The points of these rows, without faces."""
        return PointCloud(
            self.xyz_N3[rows],
            normal=None if self.normal_N3 is None else self.normal_N3[rows],
            strength=None if self.strength_N is None else self.strength_N[rows],
            label=None if self.label_N is None else self.label_N[rows],
            where=self.where,
        )

    def _numbers(self, name: str, values: npt.ArrayLike, axes: int) -> Any:
        array = np.asarray(values)
        if array.dtype.kind not in "iuf" or array.ndim != axes:
            raise DataError(
                f"{self.where}: {name} are {array.dtype} {list(array.shape)}; expected numbers of {axes} axes"
            )
        return array.astype(np.float64)

    def _of_points(self, name: str, values: npt.ArrayLike, shape: tuple[int, ...]) -> Any:
        array = self._numbers(name, values, 1 + len(shape))
        if array.shape != (len(self), *shape):
            raise DataError(
                f"{self.where}: {name} are {list(array.shape)}; expected {[len(self), *shape]}, as there are points"
            )
        self._require_finite(name, array)
        return array

    def _whole(self, name: str, array: Floats) -> Integers:
        wrong = np.flatnonzero((array != np.floor(array)) | (array < -1) | (array >= 2**31))
        if len(wrong):
            raise DataError(
                f"{self.where}: {name} are whole numbers from -1 on; number {wrong[0]} is {array[wrong[0]]}"
            )
        return array.astype(np.int64)

    def _faces(self, values: npt.ArrayLike) -> Integers | None:
        array = np.asarray(values)
        if not array.size:
            return None
        if array.dtype.kind not in "iu" or array.shape[1:] != (3,):
            raise DataError(
                f"{self.where}: faces are {array.dtype} {list(array.shape)}; expected whole numbers [F, 3]"
            )
        wrong = np.flatnonzero(((array < 0) | (array >= len(self))).any(1))
        if len(wrong):
            corners = array[wrong[0]].tolist()
            raise DataError(f"{self.where}: face {wrong[0]} has the corners {corners} of {len(self)} points")
        return array.astype(np.int64)

    def _require_finite(self, name: str, array: Floats) -> None:
        wrong = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
        if len(wrong):
            raise DataError(
                f"{self.where}: {name} of point {wrong[0]} are {array[wrong[0]].tolist()}; expected finite numbers"
            )
