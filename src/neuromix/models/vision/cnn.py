"""What plain convolutional skeletons share, spiking or not: `vgg` is a list of layers, `resnet` a residual net.

Papers about training rules, conversion, early exit or attacks use these nets and differ in the order of
convolution, norm and activation, in what the skip connection carries, in stem and head. All of that is fields
of their Configs, so that such a net is a Config with other values, and the paper's file holds only its names and
weights.

The activation is any neuron or any pointwise activation. A static image is shown `time_steps` times; what lies
before the first activation is computed once.

Shapes: T spike time, B batch, C channels, H W feature map, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import UnknownNameError
from neuromix.core.model import Model, ModelConfig, require_image
from neuromix.core.state import Stateful
from neuromix.core.time import Repeat, fold
from neuromix.layers.activation import make_activation
from neuromix.layers.conv import ConvBN
from neuromix.layers.sequence_dropout import SequenceDropout
from neuromix.neurons.neuron import Neuron, make_neuron

Pool: TypeAlias = Literal["avg", "max"]


@dataclass(frozen=True)
class CNNConfig(ModelConfig):
    """What both skeletons have in common."""

    activation: Spec = Spec("lif")  # a neuron, or an activation such as "relu"
    norm: Literal["batch", "none"] = "batch"
    bias: bool = False  # of the convolutions
    dropout: float = 0.0  # in [0, 1), one mask for all time steps of a sequence
    time_steps: int = 4  # how often a static image is shown to a net with neurons
    in_channels: int = 3
    num_classes: int = 10

    def validate(self) -> None:
        self.require_positive("time_steps", "in_channels", "num_classes")
        self.require_within(0, 1, "dropout")


class Folded(nn.Module):
    """A time-free module on x_T."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x_T: Tensor) -> Tensor:
        return fold(self.module, x_T)


class Activate(nn.Module):
    """gain * activation(norm(x_T / deviation))."""

    def __init__(
        self, activation: Spec, norm: nn.Module | None = None, *, gain: float = 1.0, deviation: float = 1.0
    ) -> None:
        super().__init__()
        self.norm = norm
        self.activation = _make_activation(activation)
        self.gain = gain
        self.deviation = deviation

    def forward(self, x_T: Tensor) -> Tensor:
        if self.deviation != 1:
            x_T = x_T / self.deviation
        if self.norm is not None:
            x_T = fold(self.norm, x_T)
        is_timed = isinstance(self.activation, Stateful)
        y_T: Tensor = self.activation(x_T) if is_timed else fold(self.activation, x_T)
        return y_T if self.gain == 1 else y_T * self.gain

    def extra_repr(self) -> str:
        return f"gain={self.gain}, deviation={self.deviation}"


class Unit(nn.Module):
    """A convolution (with its norm), then activation and dropout: x_TBCHW to x_TBCHW."""

    def __init__(
        self, conv: nn.Module, activate: nn.Module | None = None, dropout: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = conv
        self.activate = activate if activate is not None else nn.Identity()
        self.dropout = dropout if dropout is not None else nn.Identity()

    def forward(self, x_TBCHW: Tensor) -> Tensor:
        is_timed = isinstance(self.conv, Repeat | Stateful)
        y_TBCHW: Tensor = self.conv(x_TBCHW) if is_timed else fold(self.conv, x_TBCHW)
        y_TBCHW = self.dropout(self.activate(y_TBCHW))
        return y_TBCHW


class MeanPool(nn.Module):
    """Averages windows of side `kernel`, then what is left of the map: x_BCHW to [B, C].

    A smaller map is averaged as a whole, as it is with `kernel` None.
    """

    def __init__(self, kernel: int | None = None) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.kernel is not None:
            height, width = x_BCHW.shape[-2:]
            x_BCHW = F.avg_pool2d(x_BCHW, (min(self.kernel, height), min(self.kernel, width)))
        return x_BCHW.mean((-2, -1))

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}"


class Head(nn.Module):
    """Pooling to features, hidden layers, classifier: x_TBCHW to logits [T, B, K]."""

    def __init__(self, pool: nn.Module, hidden: Iterable[nn.Module], classify: nn.Linear) -> None:
        super().__init__()
        self.pool = pool
        self.hidden = nn.Sequential(*hidden)
        self.classify = classify

    def forward(self, x_TBCHW: Tensor) -> Tensor:
        x_TBF = fold(self.pool, x_TBCHW).flatten(2)
        logits_TBK: Tensor = self.classify(self.hidden(x_TBF))
        return logits_TBK


class CNN(Model):
    """What both skeletons share. Logits are averaged over time.

    Static image [B, C, H, W], or a frame a step [T, B, C, H, W], to logits [B, K]; with `feature_levels`, the maps
    [T, B, C, H, W] that leave these stages. Without a neuron there is no time to step along.
    """

    stream_axis: int | None = 0
    least_side: int = 1  # of the image

    def __init__(
        self, config: CNNConfig, stages: Iterable[nn.Module], head: Head, *, stem: nn.Module, tail: nn.Module
    ) -> None:
        super().__init__(config)
        self.require_feature_levels()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.tail = tail if not config.feature_levels else nn.Identity()
        self.head = head if not config.feature_levels else None
        if not any(isinstance(module, Neuron) for module in self.modules()):
            self._leave_time()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _leave_time(self) -> None:
        """Without neurons every step would be the same: there is one, until the net is converted."""
        self.stream_axis = None
        for module in self.modules():
            if isinstance(module, Repeat):
                module.times = 1

    def encode(self, *inputs: Tensor) -> Tensor:
        (image,) = inputs
        require_image(image, self.config.in_channels, least=self.least_side, dims=(4, 5))
        return image if image.dim() == 5 else image.unsqueeze(0)

    def forward_steps(self, x_TBCHW: Tensor) -> Any:
        """x_TBCHW with T = 1 (a static image) or one frame a step; logits of each step, [T, B, K]."""
        maps: list[Tensor] = []
        x_TBCHW = self.stem(x_TBCHW)
        for level, stage in enumerate(self.stages):
            x_TBCHW = stage(x_TBCHW)
            if level in self.config.feature_levels:
                maps.append(x_TBCHW)
        return maps if self.head is None else self.head(self.tail(x_TBCHW))

    def readout(self, y: Any) -> Any:
        return y if isinstance(y, list) else y.mean(0)

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        side = max(8, 2 * max(level.stride for level in self.feature_info()))
        image = torch.randn(batch_size, self.config.in_channels, side, side, generator=generator)
        return Batch({"image": image})


def make_dropout(rate: float) -> nn.Module:
    """Dropout with one mask a sequence, or nothing at rate 0."""
    return SequenceDropout(rate) if rate > 0 else nn.Identity()


def _make_activation(spec: Spec) -> nn.Module:
    neurons, activations = registry.names("neuron"), registry.names("activation")
    if spec.name in neurons:
        return make_neuron(spec)
    if spec.name in activations:
        return make_activation(spec)
    raise UnknownNameError("neuron or activation", spec.name, [*neurons, *activations])


def make_pool(kind: Pool, kernel: int, padding: int = 0) -> nn.Module:
    """Pooling that halves the map."""
    pool = nn.AvgPool2d if kind == "avg" else nn.MaxPool2d
    return pool(kernel, stride=2, padding=padding)


def make_conv(
    config: CNNConfig, dim: int, dim_out: int, kernel: int, *, stride: int = 1, bias: bool, norm: bool
) -> nn.Module:
    """A convolution, with the norm of the net behind it or not."""
    if norm and config.norm == "batch":
        return ConvBN(dim, dim_out, kernel, stride=stride, bias=bias)
    return nn.Conv2d(dim, dim_out, kernel, stride, kernel // 2, bias=bias)
