"""An inverted separable convolution ("MetaFormer Baselines for Vision", eq. 9; from MobileNetV2).

Shapes: B batch, C channels, H W feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.core.registry import register_mixer
from neuromix.layers.activation import make_activation
from neuromix.layers.init import truncated_normal
from neuromix.mixers.mixer import SpatialMixer


@dataclass(frozen=True)
class SepConvConfig(Config):
    """Config of SepConv."""

    expansion: float = 2.0  # hidden channels for each channel, > 0
    kernel: int = 7  # side of the depthwise window, odd
    activation: Spec = Spec("star_relu")
    bias: bool = False  # in all three convolutions

    def validate(self) -> None:
        self.require_positive("expansion")
        self.require(
            self.kernel > 0 and self.kernel % 2 == 1, f"kernel must be odd and positive, got {self.kernel}"
        )


@register_mixer("sepconv")
class SepConv(SpatialMixer):
    """contract(depthwise(activation(expand(x)))), with 1x1 convolutions C -> expansion*C -> C around it."""

    Config: ClassVar[type[Config]] = SepConvConfig

    def __init__(self, config: SepConvConfig, dim: int, size: tuple[int, int] | None = None) -> None:
        super().__init__(config, dim, size)
        hidden = int(dim * config.expansion)
        if hidden < 1:
            raise ConfigError(
                f"SepConv: expansion {config.expansion} of {dim} channels leaves no hidden channel"
            )
        kernel, bias = config.kernel, config.bias
        self.expand = truncated_normal(nn.Conv2d(dim, hidden, 1, bias=bias))
        self.activation = make_activation(config.activation)
        self.depthwise = truncated_normal(
            nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=bias)
        )
        self.contract = truncated_normal(nn.Conv2d(hidden, dim, 1, bias=bias))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = self.activation(self.expand(x_BCHW))
        y_BCHW: Tensor = self.contract(self.depthwise(h_BCHW))
        return y_BCHW
