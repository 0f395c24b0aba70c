"""A depthwise convolution as a token mixer.

Shapes: B batch, C channels, H W feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from neuromix.core.config import Config
from neuromix.core.registry import register_mixer
from neuromix.mixers.mixer import SpatialMixer


@dataclass(frozen=True)
class DepthwiseConvConfig(Config):
    """Config of DepthwiseConv."""

    kernel: int = 3  # side of the window, odd
    bias: bool = True

    def validate(self) -> None:
        self.require(
            self.kernel > 0 and self.kernel % 2 == 1, f"kernel must be odd and positive, got {self.kernel}"
        )


@register_mixer("depthwise_conv")
class DepthwiseConv(SpatialMixer):
    """One learned filter for each channel, zeros beyond the edge; unlike Pool it does not subtract its input."""

    Config: ClassVar[type[Config]] = DepthwiseConvConfig

    def __init__(self, config: DepthwiseConvConfig, dim: int, size: tuple[int, int] | None = None) -> None:
        super().__init__(config, dim, size)
        self.conv = nn.Conv2d(
            dim, dim, config.kernel, padding=config.kernel // 2, groups=dim, bias=config.bias
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.conv(x_BCHW)
        return y_BCHW
