"""Block: the MetaFormer block, a token mixer and a channel mixer, each around a skip connection."""

from __future__ import annotations

from torch import Tensor, nn

from neuromix.layers.residual import Residual


class Block(nn.Module):
    """y = channel_mixer(mixer(x)), where both are Residuals."""

    def __init__(self, mixer: Residual, channel_mixer: Residual | nn.Identity) -> None:
        super().__init__()
        self.mixer = mixer
        self.channel_mixer = channel_mixer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.channel_mixer(self.mixer(x))
        return y
