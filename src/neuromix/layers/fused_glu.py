"""A gated feed-forward network whose two halves are one matrix product.

Shapes: D width, F hidden units.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.layers.activation import make_activation
from neuromix.layers.chance import Dropout
from neuromix.layers.ffn import GatedFeedForwardConfig


@registry.register("ffn", "fused_glu")
class FusedGatedFeedForward(nn.Module):
    """contract(y * activation(gate)) with (y, gate) the halves of expand(x) [..., 2F]."""

    Config: ClassVar[type[Config]] = GatedFeedForwardConfig

    def __init__(self, config: GatedFeedForwardConfig, dim: int) -> None:
        super().__init__()
        hidden = config.units(dim)
        self.expand = nn.Linear(dim, 2 * hidden, bias=config.bias)
        self.activation = make_activation(config.activation)
        self.dropout = Dropout(config.dropout)
        self.contract = nn.Linear(hidden, dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.expand(x).chunk(2, -1)
        contracted: Tensor = self.contract(self.dropout(y * self.activation(gate)))
        return contracted
