"""Two plain convolutional skeletons, spiking or not: a list-driven VGG and a residual net.

Papers about training rules, conversion, early exit or attacks use these nets and differ in the order of
convolution, norm and activation, in what the skip connection carries, in stem and head. All of that is fields
here, so that such a net is a Config with other values, and the paper's file holds only its names and weights.

The activation is any neuron or any pointwise activation. A static image is shown `time_steps` times; what lies
before the first activation is computed once.

Shapes: T spike time, B batch, C channels, H W feature map, F features, K classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import UnknownNameError
from neuromix.core.model import FeatureInfo, Model, ModelConfig, require_image
from neuromix.core.state import Stateful
from neuromix.core.time import Repeat, fold
from neuromix.layers.activation import make_activation
from neuromix.layers.conv import ConvBN
from neuromix.layers.norm import make_norm
from neuromix.layers.residual import Residual
from neuromix.layers.sequence_dropout import SequenceDropout
from neuromix.layers.standardised_conv import StandardisedConv2d
from neuromix.neurons.neuron import make_neuron

Pool: TypeAlias = Literal["avg", "max"]
Layer: TypeAlias = int | Literal["A", "M"]

VGG11: tuple[Layer, ...] = (64, "A", 128, "A", 256, 256, "A", 512, 512, "A", 512, 512, "A")


@dataclass(frozen=True)
class CNNConfig(ModelConfig):
    """What both skeletons have in common."""

    activation: Spec = Spec("lif")  # a neuron, or an activation such as "relu"
    norm: Literal["batch", "none"] = "batch"
    bias: bool = False  # of the convolutions
    dropout: float = 0.0  # in [0, 1), one mask for all time steps of a sequence
    time_steps: int = 4  # how often a static image is shown
    in_channels: int = 3
    num_classes: int = 10

    def validate(self) -> None:
        self.require_positive("time_steps", "in_channels", "num_classes")
        self.require_within(0, 1, "dropout")


@dataclass(frozen=True)
class VGGConfig(CNNConfig):
    """Config of VGG."""

    # In order: the width of a 3x3 convolution with its norm and activation, "A" average or "M" maximum pooling by 2.
    layers: tuple[Layer, ...] = VGG11
    map_side: int | None = None  # the map is pooled to this side and flattened; None: mean over the map
    hidden: tuple[int, ...] = ()  # widths of the linear layers before the classifier
    hidden_bias: bool = True  # of these linear layers
    head_bias: bool = True  # of the classifier

    def validate(self) -> None:
        super().validate()
        self.require(bool(self.layers) and isinstance(self.layers[0], int), "layers must start with a width")
        self.require_positive("hidden")
        self.require(all(width > 0 for width in self.widths), f"widths must be positive, got {self.layers}")
        self.require(
            self.map_side is None or self.map_side > 0, f"map_side must be positive, got {self.map_side}"
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the convolutions."""
        return tuple(layer for layer in self.layers if isinstance(layer, int))


@dataclass(frozen=True)
class ResNetConfig(CNNConfig):
    """Config of ResNet."""

    blocks: tuple[int, ...] = (2, 2, 2, 2)  # in each stage; all stages but the first halve the map
    widths: tuple[int, ...] = (64, 128, 256, 512)  # of each stage
    bottleneck: bool = False  # 1x1, 3x3, 1x1 to four times the width, instead of 3x3, 3x3
    order: Literal["post", "pre"] = "post"  # convolution-norm-activation, or norm-activation-convolution
    # With order "pre": an identity shortcut takes the block's input, or what the first activation made of it.
    shortcut: Literal["input", "activated"] = "input"
    stem_width: int | None = None  # None: that of the first stage
    stem_kernel: int = 3  # odd
    stem_stride: int = 1
    stem_bias: bool = False
    stem_pool: Pool | None = None  # 3x3, stride 2
    tail: Literal["none", "norm", "activation"] = "none"  # after the last block: norm, or norm and activation
    head_pool: int | None = None  # side of the windows that are averaged before the classifier; None: the map
    head_dropout: bool = False  # before the classifier as well
    # Normaliser-free: convolutions with standardised weights, blocks x + alpha * gain * branch(x / deviation),
    # where gain is learnt from 0 and deviation is what x is expected to have; None: neither.
    alpha: float | None = None
    activation_gain: float = 1.0  # every activation is multiplied by it

    def validate(self) -> None:
        super().validate()
        self.require_positive("blocks", "widths", "stem_stride", "activation_gain")
        self.require(
            len(self.blocks) == len(self.widths) > 0,
            f"blocks and widths need one entry a stage, got {self.blocks} and {self.widths}",
        )
        self.require(self.stem_kernel % 2 == 1 and self.stem_kernel > 0, "stem_kernel must be odd")
        for name in ("stem_width", "head_pool", "alpha"):
            value = getattr(self, name)
            self.require(value is None or value > 0, f"{name} must be positive, got {value}")
        self.require(
            self.alpha is None or self.norm == "none", 'alpha needs norm "none": it replaces the norms'
        )
        self.require(self.alpha is None or self.order == "pre", 'alpha needs order "pre"')
        self.require(
            self.shortcut == "input" or self.order == "pre", 'shortcut "activated" needs order "pre"'
        )

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels that leave each stage."""
        return tuple(width * (4 if self.bottleneck else 1) for width in self.widths)

    @property
    def stem_dim(self) -> int:
        """Channels that leave the stem."""
        return self.widths[0] if self.stem_width is None else self.stem_width

    @property
    def stem_reduction(self) -> int:
        """How much smaller the stem makes a map."""
        return self.stem_stride * (1 if self.stem_pool is None else 2)


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
        y_T: Tensor = self.activation(x_T)
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
        is_timed = isinstance(self.conv, Repeat)
        y_TBCHW: Tensor = self.conv(x_TBCHW) if is_timed else fold(self.conv, x_TBCHW)
        y_TBCHW = self.dropout(self.activate(y_TBCHW))
        return y_TBCHW


class SkipGain(nn.Module):
    """x * gain * alpha with one learnable gain, from 0: a block starts as the identity."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain * self.alpha

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class ResidualBlock(nn.Module):
    """residual(activate(x)), where `activate` stands before the fork of branch and shortcut, if anything does."""

    def __init__(self, activate: nn.Module | None, residual: Residual) -> None:
        super().__init__()
        self.activate = activate if activate is not None else nn.Identity()
        self.residual = residual

    def forward(self, x_TBCHW: Tensor) -> Tensor:
        y_TBCHW: Tensor = self.residual(self.activate(x_TBCHW))
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
        if not any(isinstance(module, Stateful) for module in self.modules()):
            self.stream_axis = None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

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


class VGG(CNN):
    """3x3 convolutions and pooling, one behind the other, as `layers` lists them.

    Each convolution is followed by norm, activation and dropout. The last map is pooled and flattened, and goes
    through linear layers with activation and dropout to the classifier. A stage ends with a pooling.
    """

    Config: ClassVar[type[ModelConfig]] = VGGConfig

    def __init__(self, config: VGGConfig) -> None:
        super().__init__(
            config, _vgg_stages(config), _vgg_head(config), stem=nn.Identity(), tail=nn.Identity()
        )
        # Every pooling halves the map, and something of it must be left.
        self.least_side = 2 ** sum(isinstance(layer, str) for layer in config.layers)

    def feature_info(self) -> tuple[FeatureInfo, ...]:
        levels: list[FeatureInfo] = []
        stride, dim = 1, self.config.in_channels
        for stage in _split_at_pools(self.config.layers):
            dim = next((layer for layer in reversed(stage) if isinstance(layer, int)), dim)
            stride *= 2 if isinstance(stage[-1], str) else 1
            levels.append(FeatureInfo(stride, dim))
        return tuple(levels)


class ResNet(CNN):
    """Stages of residual blocks; every stage but the first starts with stride 2.

    order "post": activation(skip + norm(conv(... activation(norm(conv(x)))))), where skip is x, or a 1x1
    convolution of it with norm where the shape changes.
    order "pre": skip + conv(... activation(norm(conv(a)))) with a = activation(norm(x)), where skip is x or a
    (`shortcut`), or a 1x1 convolution of a where the shape changes.
    """

    Config: ClassVar[type[ModelConfig]] = ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(
            config,
            _resnet_stages(config),
            _resnet_head(config),
            stem=_make_stem(config),
            tail=_make_tail(config),
        )

    def feature_info(self) -> tuple[FeatureInfo, ...]:
        first: int = self.config.stem_reduction
        return tuple(FeatureInfo(first * 2**level, dim) for level, dim in enumerate(self.config.stage_dims))


def make_dropout(rate: float) -> nn.Module:
    """Dropout with one mask a sequence, or nothing at rate 0."""
    return SequenceDropout(rate) if rate > 0 else nn.Identity()


def _make_activation(spec: Spec) -> nn.Module:
    neurons, activations = registry.names("neuron"), registry.names("activation")
    if spec.name in neurons:
        return make_neuron(spec)
    if spec.name in activations:
        return make_activation(spec)  # works on each number by itself, so it needs no fold
    raise UnknownNameError("neuron or activation", spec.name, [*neurons, *activations])


def _make_pool(kind: Pool, kernel: int, padding: int = 0) -> nn.Module:
    pool = nn.AvgPool2d if kind == "avg" else nn.MaxPool2d
    return pool(kernel, stride=2, padding=padding)


def _make_conv(
    config: CNNConfig, dim: int, dim_out: int, kernel: int, *, stride: int = 1, bias: bool, norm: bool
) -> nn.Module:
    """A convolution in the manner of the net, with a norm behind it or not."""
    if isinstance(config, ResNetConfig) and config.alpha is not None:
        return StandardisedConv2d(dim, dim_out, kernel, stride=stride, bias=bias)
    if norm and config.norm == "batch":
        return ConvBN(dim, dim_out, kernel, stride=stride, bias=bias)
    return nn.Conv2d(dim, dim_out, kernel, stride, kernel // 2, bias=bias)


def _split_at_pools(layers: Sequence[int | str]) -> list[list[int | str]]:
    """The layers in groups that end with a pooling (the last one need not)."""
    groups: list[list[int | str]] = [[]]
    for layer in layers:
        groups[-1].append(layer)
        if isinstance(layer, str):
            groups.append([])
    return [group for group in groups if group]


def _vgg_stages(config: VGGConfig) -> list[nn.Module]:
    stages: list[nn.Module] = []
    dim, sees_image = config.in_channels, True
    for group in _split_at_pools(config.layers):
        layers: list[nn.Module] = []
        for layer in group:
            if isinstance(layer, str):
                layers.append(Folded(_make_pool("avg" if layer == "A" else "max", 2)))
                continue
            conv = _make_conv(config, dim, layer, 3, bias=config.bias, norm=True)
            conv = Repeat(config.time_steps, conv) if sees_image else conv
            layers.append(Unit(conv, Activate(config.activation), make_dropout(config.dropout)))
            dim, sees_image = layer, False
        stages.append(nn.Sequential(*layers))
    return stages


def _vgg_head(config: VGGConfig) -> Head:
    side = config.map_side
    dims = (config.widths[-1] * (side or 1) ** 2, *config.hidden)
    hidden = [
        nn.Sequential(
            nn.Linear(dim, dim_out, config.hidden_bias),
            Activate(config.activation),
            make_dropout(config.dropout),
        )
        for dim, dim_out in itertools.pairwise(dims)
    ]
    pool = MeanPool() if side is None else nn.AdaptiveAvgPool2d(side)
    return Head(pool, hidden, nn.Linear(dims[-1], config.num_classes, config.head_bias))


def _resnet_stages(config: ResNetConfig) -> list[nn.Module]:
    stages: list[nn.Module] = []
    dim, variance = config.stem_dim, 1.0
    for stage, (count, width, dim_out) in enumerate(
        zip(config.blocks, config.widths, config.stage_dims, strict=True)
    ):
        blocks: list[nn.Module] = []
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            shape = _BlockShape(dim, width, dim_out, stride)
            blocks.append(_make_block(config, shape, deviation=math.sqrt(variance)))
            if config.alpha is not None:
                # A projection gives variance 1 again, and every branch adds alpha^2.
                variance = (1.0 if shape.is_changing else variance) + config.alpha**2
            dim = dim_out
        stages.append(nn.Sequential(*blocks))
    return stages


class _BlockShape(NamedTuple):
    dim: int
    width: int
    dim_out: int
    stride: int

    @property
    def is_changing(self) -> bool:
        return self.stride > 1 or self.dim != self.dim_out


def _make_block(config: ResNetConfig, shape: _BlockShape, deviation: float) -> ResidualBlock:
    is_pre = config.order == "pre"
    projection = _make_projection(config, shape) if shape.is_changing else None
    branch = _make_branch(config, shape)
    if not is_pre:
        after = Activate(config.activation, gain=config.activation_gain)
        return ResidualBlock(None, Residual(branch, after, where="post", skip_scale=projection, batch_axis=1))
    norm = _make_norm(config, shape.dim)
    first = Activate(config.activation, norm, gain=config.activation_gain, deviation=deviation)
    scale = SkipGain(config.alpha) if config.alpha is not None else None
    if shape.is_changing or config.shortcut == "activated":
        return ResidualBlock(first, Residual(branch, scale=scale, skip_scale=projection, batch_axis=1))
    return ResidualBlock(None, Residual(branch, first, scale=scale, batch_axis=1))


def _make_projection(config: ResNetConfig, shape: _BlockShape) -> nn.Module:
    conv = _make_conv(
        config,
        shape.dim,
        shape.dim_out,
        1,
        stride=shape.stride,
        bias=config.bias,
        norm=config.order == "post",
    )
    return Folded(conv)


def _make_branch(config: ResNetConfig, shape: _BlockShape) -> nn.Module:
    """Convolutions with norm and activation between them; a norm behind the last one with order "post"."""
    kernels = (1, 3, 1) if config.bottleneck else (3, 3)
    strided = 1 if config.bottleneck else 0  # which of them has the stride
    dims = (shape.dim, *(shape.width,) * (len(kernels) - 1), shape.dim_out)
    units: list[nn.Module] = []
    for number, kernel in enumerate(kernels):
        is_last = number == len(kernels) - 1
        conv = _make_conv(
            config,
            dims[number],
            dims[number + 1],
            kernel,
            stride=shape.stride if number == strided else 1,
            bias=config.bias,
            norm=not is_last or config.order == "post",
        )
        activate = None if is_last else Activate(config.activation, gain=config.activation_gain)
        units.append(Unit(conv, activate, None if is_last else make_dropout(config.dropout)))
    return nn.Sequential(*units)


def _make_stem(config: ResNetConfig) -> nn.Module:
    """With order "post" convolution, norm, activation, pooling; else only convolution and pooling."""
    is_post = config.order == "post"
    conv = _make_conv(
        config,
        config.in_channels,
        config.stem_dim,
        config.stem_kernel,
        stride=config.stem_stride,
        bias=config.stem_bias,
        norm=is_post,
    )
    pool = nn.Identity() if config.stem_pool is None else _make_pool(config.stem_pool, 3, padding=1)
    if not is_post:
        return Repeat(config.time_steps, nn.Sequential(conv, pool))
    activate = Activate(config.activation, gain=config.activation_gain)
    return nn.Sequential(Unit(Repeat(config.time_steps, conv), activate), Folded(pool))


def _make_tail(config: ResNetConfig) -> nn.Module:
    norm = _make_norm(config, config.stage_dims[-1])
    if config.tail == "activation":
        return Activate(config.activation, norm, gain=config.activation_gain)
    return Folded(norm) if config.tail == "norm" and norm is not None else nn.Identity()


def _make_norm(config: CNNConfig, dim: int) -> nn.Module | None:
    return make_norm(config.norm, dim) if config.norm != "none" else None


def _resnet_head(config: ResNetConfig) -> Head:
    dropout = make_dropout(config.dropout if config.head_dropout else 0.0)
    return Head(MeanPool(config.head_pool), [dropout], nn.Linear(config.stage_dims[-1], config.num_classes))
