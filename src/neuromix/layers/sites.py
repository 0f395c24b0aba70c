"""Sites: the occupied voxels of a batch of sparse grids, and which of them are neighbours.

Sites say where, tensors [N, C] say what; so all layers of a stage share one set of neighbour tables.

Shapes: B samples, N sites, M sites of the coarser grid, K taps of a kernel.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from neuromix.core.batch import Ragged
from neuromix.core.errors import ShapeError
from neuromix.ops.sparse_conv import neighbour_table

Triple: TypeAlias = tuple[int, ...]  # one number for each of three axes


class Neighbours(NamedTuple):
    """Which site each tap reads, as `ops.sparse_conv` takes it.

    Attributes:
        table_KM: int32, the row that tap k reads for output m, or -1.
        inverse_KN: int32, the output that tap k writes from row n, or -1.
    """

    table_KM: Tensor
    inverse_KN: Tensor

    def swapped(self) -> Neighbours:
        """From outputs back to inputs, without turning the kernel round."""
        return Neighbours(self.inverse_KN, self.table_KM)


class Coarser(NamedTuple):
    """The sites of a strided convolution, and what it reads."""

    sites: Sites
    neighbours: Neighbours


class Sites:
    """Occupied voxels of B grids of one size.

    Args:
        coords_N3: int64, each in [0, shape), no two of a sample alike; in any order.
        batch_N: int64, the sample of each site, in [0, size).
        size: number of samples B.
        shape: voxels along each axis.
    """

    def __init__(self, coords_N3: Tensor, batch_N: Tensor, size: int, shape: Triple) -> None:
        self.coords_N3, self.batch_N, self.size, self.shape = coords_N3, batch_N, size, shape
        self._same: dict[Triple, Neighbours] = {}
        self._coarser: dict[tuple[Triple, Triple, Triple], Coarser] = {}

    @classmethod
    def of(cls, cloud: Ragged, margin: int = 1) -> Sites:
        """The sites of a cloud whose extra "coords" [N, 3] are its voxels.

        Args:
            margin: how much larger than the largest coordinate the grid is, along each axis; at least 1.

        Raises:
            ShapeError: no coordinates, negative ones or ones too far apart, a sample without voxels, or two rows in
                one voxel.
        """
        coords_N3 = cloud.extras.get("coords")
        if coords_N3 is None or coords_N3.shape[1:] != (3,) or coords_N3.is_floating_point():
            given = "nothing" if coords_N3 is None else f"{coords_N3.dtype} {list(coords_N3.shape)}"
            raise ShapeError(
                f"a cloud needs an extra 'coords' of whole numbers [N, 3], its voxels; got {given}"
            )
        if not cloud.size or not bool((cloud.lengths > 0).all()):
            empty = [] if not cloud.size else (cloud.lengths == 0).nonzero()[:, 0].tolist()
            raise ShapeError(f"a cloud needs at least one voxel a sample; samples without: {empty or 'all'}")
        if int(coords_N3.min()) < 0:
            raise ShapeError(
                f"voxel coordinates begin at 0, got {int(coords_N3.min())}; subtract the minimum of each sample"
            )
        largest = coords_N3.amax(0).tolist()
        sites = cls(
            coords_N3.long(), cloud.packed()[1][0], cloud.size, tuple(side + margin for side in largest)
        )
        sites._require_fits()
        sites._require_distinct()
        return sites

    def __len__(self) -> int:
        return len(self.coords_N3)

    def counts(self) -> Tensor:
        """Sites of each sample: [B], int64."""
        return torch.bincount(self.batch_N, minlength=self.size)

    def sorted_rows(self) -> Tensor:
        """[N], int64: the rows in the order of (sample, coordinates)."""
        return self._keys(self.coords_N3).argsort()

    def neighbours(self, kernel: int | Triple = 3) -> Neighbours:
        """What a submanifold convolution reads: of each site those within its kernel, all odd.

        Tap (a, b, c) reads the site at an offset of (a - k//2, b - k//2, c - k//2).
        """
        kernel = _triple(kernel)
        if kernel not in self._same:
            reach = tuple(side // 2 for side in kernel)
            wide = tuple(side + 2 * r for side, r in zip(self.shape, reach, strict=True))
            # Room at the borders keeps the key of a voxel outside apart from those of all voxels inside.
            keys_N = self._keys(self.coords_N3 + self.coords_N3.new_tensor(reach), wide)
            offsets = itertools.product(*(range(-r, r + 1) for r in reach))
            table_KN = neighbour_table(keys_N, [(x * wide[1] + y) * wide[2] + z for x, y, z in offsets])
            self._same[kernel] = Neighbours(table_KN, table_KN.flip(0))
        return self._same[kernel]

    def down(self, kernel: int | Triple = 2, stride: int | Triple = 2, padding: int | Triple = 0) -> Coarser:
        """The sites of a strided convolution: all those that read at least one site.

        Along an axis of length S they lie in [0, (S + 2 padding - kernel) // stride + 1): with a kernel and stride of 2
        an odd length loses its last layer.
        """
        how = (_triple(kernel), _triple(stride), _triple(padding))
        if how not in self._coarser:
            self._coarser[how] = self._down(*how)
        return self._coarser[how]

    def _down(self, kernel: Triple, stride: Triple, padding: Triple) -> Coarser:
        sides = zip(self.shape, kernel, stride, padding, strict=True)
        shape = tuple(max(0, (side + 2 * p - k) // s + 1) for side, k, s, p in sides)
        steps, limits, pads = (self.coords_N3.new_tensor(each) for each in (stride, shape, padding))
        rows: list[Tensor] = []
        keys: list[Tensor] = []
        for tap in itertools.product(*map(range, kernel)):
            shifted_N3 = self.coords_N3 + pads - self.coords_N3.new_tensor(tap)
            coarse_N3 = shifted_N3.div(steps, rounding_mode="floor")
            reads_N = ((coarse_N3 * steps == shifted_N3) & (coarse_N3 >= 0) & (coarse_N3 < limits)).all(1)
            rows.append(reads_N.nonzero()[:, 0])
            keys.append(self._keys(coarse_N3, shape)[rows[-1]])
        keys_M, at = torch.unique(torch.cat(keys), return_inverse=True)
        table_KM = keys_M.new_full((len(rows), len(keys_M)), -1, dtype=torch.int32)
        inverse_KN = keys_M.new_full((len(rows), len(self)), -1, dtype=torch.int32)
        for k, (row, output) in enumerate(zip(rows, at.split(list(map(len, rows))), strict=True)):
            table_KM[k, output] = row.to(torch.int32)
            inverse_KN[k, row] = output.to(torch.int32)
        return Coarser(self._from_keys(keys_M, shape), Neighbours(table_KM, inverse_KN))

    def _from_keys(self, keys_M: Tensor, shape: Triple) -> Sites:
        columns = []
        for side in reversed(shape):
            columns.append(keys_M % max(side, 1))
            keys_M = keys_M.div(max(side, 1), rounding_mode="floor")
        return Sites(torch.stack(columns[::-1], 1), keys_M, self.size, shape)

    def _keys(self, coords_N3: Tensor, shape: Triple | None = None) -> Tensor:
        """One number a site, in the order of sample and coordinates, in a grid of this shape."""
        _, height, width = shape or self.shape
        volume = math.prod(shape or self.shape)
        weights = coords_N3.new_tensor([height * width, width, 1])
        return (coords_N3 * weights).sum(1) + self.batch_N * volume

    def _require_fits(self) -> None:
        # A kernel's reach widens the grid; 64 voxels a side are more than that of any kernel.
        if self.size * math.prod(side + 64 for side in self.shape) >= 2**63:
            raise ShapeError(
                f"{self.size} grids of {' x '.join(map(str, self.shape))} voxels are too many to number; "
                "take larger voxels, or leave far points out"
            )

    def _require_distinct(self) -> None:
        keys_N, row_N = self._keys(self.coords_N3).sort()
        twice = (keys_N[1:] == keys_N[:-1]).nonzero()[:, 0]
        if len(twice):
            row = int(row_N[twice[0]])
            where = self.coords_N3[row].tolist()
            raise ShapeError(
                f"two rows of sample {int(self.batch_N[row])} share voxel {where}; keep one point a voxel (voxelise)"
            )


def _triple(value: int | Triple) -> Triple:
    return (value, value, value) if isinstance(value, int) else value
