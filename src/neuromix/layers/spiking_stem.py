"""Stems of spiking transformers: from an image to a map of spikes.

Shapes: T spike time, B batch, C channels, H W feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.core.time import Repeat, fold
from neuromix.layers.conv import ConvBN
from neuromix.layers.residual import Residual
from neuromix.layers.spiking_mlp import SpikingDownsample, SpikingMLP
from neuromix.neurons.neuron import make_neuron


def stem_dims(dim: int, stages: int) -> list[int]:
    """Channels of each stage: they double, and the last has `dim`.

    Raises:
        ConfigError: `dim` cannot be halved so often.
    """
    if dim % 2 ** (stages - 1):
        raise ConfigError(
            f"a stem of {stages} stages needs a width that {2 ** (stages - 1)} divides, got {dim}"
        )
    return [dim // 2**number for number in reversed(range(stages))]


def spiking_conv(conv: ConvBN, neuron: Spec, times: int | None = None) -> nn.Module:
    """Convolution, batch-norm, neuron, on x_TBCHW.

    With `times`, a static image is convolved once and shown so often.
    """
    if times is None:
        return SpikingDownsample(conv, make_neuron(neuron), neuron_first=False)
    return nn.Sequential(Repeat(times, conv), make_neuron(neuron))


class PatchSplittingStem(nn.Module):
    """Spiking patch splitting (SPS), of Spikformer V1: x_TBCHW to spikes, or sums of two.

    Each stage is a 3x3 convolution with its neuron, and max-pooling where its stride is not 1. At the end the map
    adds what a 3x3 convolution with a neuron makes of it, which tells of relative positions.
    """

    def __init__(
        self, in_channels: int, dim: int, strides: Sequence[int], neuron: Spec, time_steps: int
    ) -> None:
        super().__init__()
        dims = [in_channels, *stem_dims(dim, len(strides))]
        self.stages = nn.ModuleList(
            spiking_conv(ConvBN(dims[i], dims[i + 1], 3), neuron, time_steps if i == 0 else None)
            for i in range(len(strides))
        )
        self.pools = nn.ModuleList(
            nn.MaxPool2d(3, stride, 1) if stride > 1 else nn.Identity() for stride in strides
        )
        self.position = Residual(
            SpikingDownsample(ConvBN(dim, dim, 3), None), make_neuron(neuron), where="spike"
        )

    def forward(self, x_TBCHW: Tensor) -> Tensor:
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x_TBCHW = fold(pool, stage(x_TBCHW))
        y_TBCHW: Tensor = self.position(x_TBCHW)
        return y_TBCHW


class ConvStem(nn.Module):
    """Spiking convolutional stem (SCS), of Spikformer V2: x_TBCHW to spikes, or sums of two.

    A stage is a strided convolution without overlap and a residual block of two 3x3 convolutions, each with its
    neuron. A stage of stride 1 begins with a 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        strides: Sequence[int],
        neuron: Spec,
        time_steps: int,
        ratio: int = 4,
    ) -> None:
        super().__init__()
        dims = [in_channels, *stem_dims(dim, len(strides))]
        self.stages = nn.ModuleList()
        for i, stride in enumerate(strides):
            kernel, padding = (3, 1) if stride == 1 else (stride, 0)
            down = ConvBN(dims[i], dims[i + 1], kernel, stride=stride, padding=padding)
            refine = SpikingMLP(dims[i + 1], ratio, neuron, kernel=3, bias=False)
            self.stages.append(
                nn.Sequential(
                    spiking_conv(down, neuron, time_steps if i == 0 else None),
                    Residual(refine, make_neuron(neuron), where="spike"),
                )
            )

    def forward(self, x_TBCHW: Tensor) -> Tensor:
        for stage in self.stages:
            x_TBCHW = stage(x_TBCHW)
        return x_TBCHW
