"""Positions that are added to a feature map.

Shapes: B batch, C channels, H W feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuromix.core.errors import ConfigError, ShapeError


class PositionTable(nn.Module):
    """Adds a learnable vector for each place of a map of fixed size; starts at zero."""

    def __init__(self, dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, dim, *size))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Raises ShapeError unless the map has the size of the table."""
        if x_BCHW.shape[-2:] != self.table.shape[-2:]:
            table, got = tuple(self.table.shape[-2:]), tuple(x_BCHW.shape[-2:])
            raise ShapeError(f"the position table is for maps of {table}, got a map of {got}")
        return x_BCHW + self.table


def sincos_positions(dim: int, height: int, width: int) -> Tensor:
    """Fixed positions of a map, float64 [dim, height, width].

    The first half of the channels tells of the column p, the second of the row: sin(p w) and then cos(p w), with the
    frequencies w_k = 10000^(-4k/dim), k = 0..dim/4-1.

    Raises:
        ConfigError: 4 does not divide `dim`.
    """
    if dim % 4:
        raise ConfigError(
            f"positions of two axes, with sine and cosine, need a width that 4 divides, got {dim}"
        )
    frequencies = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))

    def along(side: int) -> Tensor:
        angles = frequencies[:, None] * torch.arange(side, dtype=torch.float64)
        return torch.cat([angles.sin(), angles.cos()])

    columns, rows = along(width)[:, None, :], along(height)[:, :, None]
    shape = (dim // 2, height, width)
    return torch.cat([columns.expand(shape), rows.expand(shape)])
