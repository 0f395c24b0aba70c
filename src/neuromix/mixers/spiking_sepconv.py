"""Spiking separable convolution: the token mixer of the first stages of Meta-SpikeFormer.

Shapes: T spike time, B batch, C channels, H W feature map.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from neuromix.core.config import Config, Spec
from neuromix.core.registry import register_mixer
from neuromix.core.time import fold
from neuromix.layers.conv import ConvBN
from neuromix.mixers.mixer import SpatialMixer
from neuromix.neurons.neuron import make_neuron


@dataclass(frozen=True)
class SpikingSepConvConfig(Config):
    """Config of SpikingSepConv."""

    ratio: int = 2  # widening between the pointwise convolutions
    kernel: int = 7  # of the depthwise convolution, odd
    neuron: Spec = Spec("lif")

    def validate(self) -> None:
        self.require_positive("ratio", "kernel")
        self.require(self.kernel % 2 == 1, f"kernel must be odd, got {self.kernel}")


@register_mixer("spiking_sepconv")
class SpikingSepConv(SpatialMixer):
    """Conv1x1-BN (C -> ratio*C) -> neuron -> depthwise conv -> Conv1x1-BN (ratio*C -> C), on x_TBCHW.

    The depthwise convolution has no batch-norm, so it and the last pointwise one are one linear map.
    """

    Config = SpikingSepConvConfig
    takes_time = True

    def __init__(self, config: SpikingSepConvConfig, dim: int, size: tuple[int, int] | None = None) -> None:
        super().__init__(config, dim, size)
        hidden = dim * config.ratio
        self.expand = ConvBN(dim, hidden)
        self.neuron = make_neuron(config.neuron)
        self.depthwise = nn.Conv2d(
            hidden, hidden, config.kernel, padding=config.kernel // 2, groups=hidden, bias=False
        )
        self.project = ConvBN(hidden, dim)

    def forward(self, x_TBCHW: Tensor) -> Tensor:
        spikes = self.neuron(fold(self.expand, x_TBCHW))
        return fold(lambda x_BCHW: self.project(self.depthwise(x_BCHW)), spikes)
