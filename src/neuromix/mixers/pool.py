"""Average pooling as a token mixer ("MetaFormer Is Actually What You Need for Vision", eq. 4).

Shapes: B batch, C channels, H W feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from neuromix.core.config import Config
from neuromix.core.registry import register_mixer
from neuromix.mixers.mixer import SpatialMixer


@dataclass(frozen=True)
class PoolConfig(Config):
    """Config of Pool."""

    size: int = 3  # side of the window, odd

    def validate(self) -> None:
        self.require(self.size > 0 and self.size % 2 == 1, f"size must be odd and positive, got {self.size}")


@register_mixer("pool")
class Pool(SpatialMixer):
    """Mean over a window around each place, minus the place itself: the block adds it back.

    A window that reaches over the edge is divided by the number of its places inside the map. No parameters.
    """

    Config: ClassVar[type[Config]] = PoolConfig

    def forward(self, x_BCHW: Tensor) -> Tensor:
        size = self.config.size
        mean_BCHW = F.avg_pool2d(x_BCHW, size, stride=1, padding=size // 2, count_include_pad=False)
        return mean_BCHW - x_BCHW
