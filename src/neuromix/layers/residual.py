"""Residual: the only place where a skip connection is added.

Shapes: B batch, C channels, H W feature map; a leading T where the branch knows time.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from neuromix.layers.chance import DropPath

Where: TypeAlias = Literal["pre", "post", "spike"]


class Scale(nn.Module):
    """A learnable factor for each channel of x_BCHW (LayerScale, ResScale)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.weight[:, None, None]


class Residual(nn.Module):
    """A branch around a skip connection.

    `norm` - an ordinary norm, or a neuron in a spiking net - stands before the branch, after the sum, or after
    the branch:
        "pre":   y = skip(x) + drop_path(scale(branch(norm(x))))     pre-norm; membrane shortcut
        "post":  y = norm(skip(x) + drop_path(scale(branch(x))))     post-norm; vanilla spiking shortcut
        "spike": y = skip(x) + drop_path(scale(norm(branch(x))))     SEW shortcut: adds spikes
    where skip is the identity by default: a scale, or a projection where the shape changes. What else the branch needs
    to know, such as the sites of a sparse grid, is given to it as it is.
    """

    def __init__(
        self,
        branch: nn.Module,
        norm: nn.Module | None = None,
        *,
        where: Where = "pre",
        scale: nn.Module | None = None,
        skip: nn.Module | None = None,
        drop_path: float = 0.0,
        batch_axis: int = 0,
    ) -> None:
        super().__init__()
        self.norm = norm if norm is not None else nn.Identity()
        self.branch = branch
        self.where = where
        self.scale = scale if scale is not None else nn.Identity()
        self.skip = skip if skip is not None else nn.Identity()
        self.drop_path = DropPath(drop_path, batch_axis)

    def forward(self, x: Tensor, *geometry: Any, **options: Any) -> Tensor:
        y: Tensor = self.branch(self.norm(x) if self.where == "pre" else x, *geometry, **options)
        if self.where == "spike":
            y = self.norm(y)
        y = self.skip(x) + self.drop_path(self.scale(y))
        if self.where == "post":
            y = self.norm(y)
        return y

    def extra_repr(self) -> str:
        return f"where={self.where}"
