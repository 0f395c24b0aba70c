"""Feed-forward networks: what works on each token by itself, x [..., D] to the same shape.

Shapes: D width, F hidden units.
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


def make_ffn(spec: Spec | str, dim: int) -> nn.Module:
    """The feed-forward network that a spec names, for tokens of width `dim`.

    Raises:
        UnknownNameError, ConfigError: no such network, or options that do not fit.
    """
    ffn: nn.Module = registry.build("ffn", spec, dim)
    return ffn


@dataclass(frozen=True)
class FeedForwardConfig(Config):
    """Config of FeedForward."""

    hidden: int | None = None  # units; None: ratio * width
    ratio: float = 4.0  # hidden units for each of the width, > 0
    activation: Spec = Spec("gelu")
    bias: bool = True
    dropout: float = 0.0  # in [0, 1), of the hidden units

    def validate(self) -> None:
        self.require_positive("ratio")
        self.require_within(0, 1, "dropout")

    def units(self, dim: int) -> int:
        """The hidden units of a network on `dim` numbers a token."""
        units = self.hidden if self.hidden is not None else int(dim * self.ratio)
        if units < 1:
            raise ConfigError(
                f"a feed-forward network on {dim} numbers a token would have {units} hidden units"
            )
        return units


@registry.register("ffn", "mlp")
class FeedForward(nn.Module):
    """contract(activation(expand(x)))."""

    Config: ClassVar[type[Config]] = FeedForwardConfig

    def __init__(self, config: FeedForwardConfig, dim: int) -> None:
        super().__init__()
        hidden = config.units(dim)
        self.expand = nn.Linear(dim, hidden, bias=config.bias)
        self.activation = make_activation(config.activation)
        self.dropout = Dropout(config.dropout)
        self.contract = nn.Linear(hidden, dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.contract(self.dropout(self.activation(self.expand(x))))
        return y


@dataclass(frozen=True)
class GatedFeedForwardConfig(FeedForwardConfig):
    """Config of GatedFeedForward."""

    activation: Spec = Spec("silu")
    bias: bool = False


@registry.register("ffn", "glu")
class GatedFeedForward(nn.Module):
    """contract(activation(gate(x)) * up(x)); with SiLU known as SwiGLU."""

    Config: ClassVar[type[Config]] = GatedFeedForwardConfig

    def __init__(self, config: GatedFeedForwardConfig, dim: int) -> None:
        super().__init__()
        hidden = config.units(dim)
        self.gate = nn.Linear(dim, hidden, bias=config.bias)
        self.up = nn.Linear(dim, hidden, bias=config.bias)
        self.activation = make_activation(config.activation)
        self.dropout = Dropout(config.dropout)
        self.contract = nn.Linear(hidden, dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.contract(self.dropout(self.activation(self.gate(x)) * self.up(x)))
        return y
