"""Spiking self-attention: that of Spikformer, softmax-free on binary queries, keys and values (Zhou et al., ICLR 2023).

Its core is that of `sdsa` in form 3, neuron(q (k^T v) * scale); the projections are plain.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from neuromix.core.registry import register_mixer
from neuromix.layers.conv import ConvBN
from neuromix.mixers.sdsa import SDSA, SDSAConfig


@dataclass(frozen=True)
class SSAConfig(SDSAConfig):
    """Config of SSA."""

    qkv_bias: bool = False  # in the convolutions of q, k and v


@register_mixer("ssa")
class SSA(SDSA):
    """Spiking self-attention over the tokens of x_TBCHW, which is spikes or sums of spikes.

    q, k, v = neuron(Conv1x1-BN(x)); y = Conv1x1-BN(attention(q, k, v)). Channels are split head-major.
    """

    Config = SSAConfig

    def projection(self, name: str) -> nn.Module:
        """The linear map, with its batch-norm, that gives "q", "k", "v" or "out"."""
        return ConvBN(self.dim, self.dim, bias=name == "out" or self.config.qkv_bias)
