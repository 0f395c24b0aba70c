"""Channel mixers: what works on each position of a map by itself.

Shapes: B batch, C channels, H W feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.layers.activation import make_activation
from neuromix.layers.chance import Dropout
from neuromix.layers.init import truncated_normal


def make_channel_mixer(spec: Spec | str, dim: int) -> nn.Module:
    """The channel mixer that a spec names, for maps x_BCHW of `dim` channels.

    One that sets `takes_time` maps x_TBCHW instead.

    Raises:
        UnknownNameError, ConfigError: no such channel mixer, or options that do not fit.
    """
    mixer: nn.Module = registry.build("channel mixer", spec, dim)
    return mixer


@dataclass(frozen=True)
class MlpConfig(Config):
    """Config of Mlp."""

    ratio: float = 4.0  # hidden channels for each channel, > 0
    activation: Spec = Spec("gelu")
    bias: bool = True
    dropout: float = 0.0  # in [0, 1), after the activation and after the output

    def validate(self) -> None:
        self.require_positive("ratio")
        self.require_within(0, 1, "dropout")


@registry.register("channel mixer", "mlp")
class Mlp(nn.Module):
    """contract(activation(expand(x))) at each position: 1x1 convolutions C -> int(C*ratio) -> C.

    Weights start truncated-normal with deviation 0.02, biases at zero.
    """

    Config: ClassVar[type[Config]] = MlpConfig

    def __init__(self, config: MlpConfig, dim: int) -> None:
        super().__init__()
        hidden = int(dim * config.ratio)
        if hidden < 1:
            raise ConfigError(f"an MLP of ratio {config.ratio} on {dim} channels has no hidden channel")
        self.expand = truncated_normal(nn.Conv2d(dim, hidden, 1, bias=config.bias))
        self.activation = make_activation(config.activation)
        self.contract = truncated_normal(nn.Conv2d(hidden, dim, 1, bias=config.bias))
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = self.dropout(self.activation(self.expand(x_BCHW)))
        y_BCHW: Tensor = self.dropout(self.contract(h_BCHW))
        return y_BCHW
