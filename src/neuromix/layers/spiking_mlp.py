"""The channel mixer of spiking nets: two convolutions with a neuron between.

Shapes: T spike time, B batch, C channels, H W feature map.
"""

from __future__ import annotations

from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.time import fold
from neuromix.layers.conv import ConvBN
from neuromix.neurons.neuron import make_neuron


class SpikingMLP(nn.Module):
    """Conv-BN (C -> ratio*C) -> neuron -> Conv-BN (ratio*C -> C), on spikes x_TBCHW.

    With kernel 1 it is an MLP on tokens, with kernel 3 it mixes neighbours as well.
    """

    def __init__(self, dim: int, ratio: int, neuron: Spec, *, kernel: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.expand = ConvBN(dim, dim * ratio, kernel, bias=bias)
        self.neuron = make_neuron(neuron)
        self.project = ConvBN(dim * ratio, dim, kernel, bias=bias)

    def forward(self, x_TBCHW: Tensor) -> Tensor:
        hidden = self.neuron(fold(self.expand, x_TBCHW))
        return fold(self.project, hidden)


class SpikingDownsample(nn.Module):
    """A convolution with stride and batch-norm, with its neuron before it or behind it (or none)."""

    def __init__(self, conv: ConvBN, neuron: nn.Module | None, neuron_first: bool = True) -> None:
        super().__init__()
        self.neuron = neuron if neuron is not None else nn.Identity()
        self.conv = conv
        self.neuron_first = neuron_first

    def forward(self, x_TBCHW: Tensor) -> Tensor:
        if self.neuron_first:
            return fold(self.conv, self.neuron(x_TBCHW))
        y_TBCHW: Tensor = self.neuron(fold(self.conv, x_TBCHW))
        return y_TBCHW
