"""Identity: no token mixing at all; what is left of a block is its norm, its scales and its MLP."""

from __future__ import annotations

from torch import Tensor

from neuromix.core.registry import register_mixer
from neuromix.mixers.mixer import SpatialMixer


@register_mixer("identity")
class Identity(SpatialMixer):
    """y = x."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW
