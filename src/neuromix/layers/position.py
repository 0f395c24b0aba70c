"""Positions that are added to a feature map.

Shapes: B batch, C channels, H W feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuromix.core.errors import ShapeError


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
