"""A fully connected layer over places, the same for every channel.

Shapes: B batch, C channels, H W feature map, N = H*W tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from neuromix.core.registry import register_mixer
from neuromix.layers.init import truncated_normal
from neuromix.mixers.fixed_tokens import FixedTokensMixer


@register_mixer("spatial_fc")
class SpatialFC(FixedTokensMixer):
    """y[m] = sum_n W[m, n] x[n] with a learned W [N, N], no bias and no activation."""

    def __init__(self, config: Any, dim: int, size: tuple[int, int] | None = None) -> None:
        super().__init__(config, dim, size)
        self.fc = truncated_normal(nn.Linear(self.tokens, self.tokens, bias=False))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCN: Tensor = self.fc(self.flatten(x_BCHW))
        return y_BCN.reshape(x_BCHW.shape)
