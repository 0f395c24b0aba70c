"""ResNet as a skeleton: post- or pre-activation, plain or bottleneck, with norms or normaliser-free; see `cnn`.

Shapes: T spike time, B batch, C channels, H W feature map. Default values: ResNet-18 for small images (He et al.,
CVPR 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.model import FeatureInfo, ModelConfig
from neuromix.core.time import Repeat
from neuromix.layers.norm import make_norm
from neuromix.layers.residual import Residual
from neuromix.layers.standardised_conv import StandardisedConv2d
from neuromix.models.vision.cnn import (
    CNN,
    Activate,
    CNNConfig,
    Folded,
    Head,
    MeanPool,
    Pool,
    Unit,
    make_conv,
    make_dropout,
    make_pool,
)


@dataclass(frozen=True)
class ResNetConfig(CNNConfig):
    """Config of ResNet."""

    blocks: tuple[int, ...] = (2, 2, 2, 2)  # in each stage; all stages but the first halve the map
    widths: tuple[int, ...] = (64, 128, 256, 512)  # of each stage
    bottleneck: bool = False  # 1x1, 3x3, 1x1 to four times the width, instead of 3x3, 3x3
    order: Literal["post", "pre"] = "post"  # convolution-norm-activation, or norm-activation-convolution
    # With order "pre": an identity shortcut takes the block's input, or what the first activation made of it; a
    # projection takes the latter, or with "own" the block's input through a norm and an activation of its own.
    shortcut: Literal["input", "activated", "own"] = "input"
    stem_width: int | None = None  # None: that of the first stage
    stem_kernel: int = 3  # odd
    stem_stride: int = 1
    stem_bias: bool = False
    stem_convs: int = 1  # with order "post": so many, dropout between them
    stem_pool: Pool | None = None  # with stride 2
    stem_pool_kernel: int = 3  # 2 or 3
    tail: Literal["none", "norm", "activation"] = "none"  # after the last block: norm, or norm and activation
    head_pool: int | None = None  # side of the windows that are averaged before the classifier; None: the map
    map_side: int | None = None  # the map is pooled to this side and flattened, in place of head_pool
    head_dropout: bool = False  # before the classifier as well
    head_bias: bool = True  # of the classifier
    # Normaliser-free: convolutions with standardised weights, blocks x + alpha * gain * branch(x / deviation),
    # where gain is learnt from 0 and deviation is what x is expected to have; None: neither.
    alpha: float | None = None
    activation_gain: float = 1.0  # every activation is multiplied by it

    def validate(self) -> None:
        super().validate()
        self.require_positive("blocks", "widths", "stem_stride", "stem_convs", "activation_gain")
        self.require(
            len(self.blocks) == len(self.widths) > 0,
            f"blocks and widths need one entry a stage, got {self.blocks} and {self.widths}",
        )
        self.require(self.stem_kernel % 2 == 1 and self.stem_kernel > 0, "stem_kernel must be odd")
        self.require(self.stem_pool_kernel in (2, 3), "stem_pool_kernel must be 2 or 3")
        self.require(self.stem_convs == 1 or self.order == "post", 'stem_convs needs order "post"')
        self.require(self.map_side is None or self.head_pool is None, "give map_side or head_pool, not both")
        for name in ("stem_width", "head_pool", "map_side", "alpha"):
            value = getattr(self, name)
            self.require(value is None or value > 0, f"{name} must be positive, got {value}")
        self.require(
            self.alpha is None or self.norm == "none", 'alpha needs norm "none": it replaces the norms'
        )
        self.require(self.alpha is None or self.order == "pre", 'alpha needs order "pre"')
        self.require(
            self.shortcut == "input" or self.order == "pre", f'shortcut "{self.shortcut}" needs order "pre"'
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


class ResNet(CNN):
    """Stages of residual blocks; every stage but the first starts with stride 2.

    order "post": activation(skip + norm(conv(... activation(norm(conv(x)))))), where skip is x, or a 1x1
    convolution of it with norm where the shape changes.
    order "pre": skip + conv(... activation(norm(conv(a)))) with a = activation(norm(x)), where skip is x or a
    (`shortcut`), or where the shape changes a 1x1 convolution of a (of another activation(norm(x)) with "own").
    """

    Config: ClassVar[type[ModelConfig]] = ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(
            config,
            _make_stages(config),
            _make_head(config),
            stem=_make_stem(config),
            tail=_make_tail(config),
        )

    def feature_info(self) -> tuple[FeatureInfo, ...]:
        first: int = self.config.stem_reduction
        return tuple(FeatureInfo(first * 2**level, dim) for level, dim in enumerate(self.config.stage_dims))


def _make_conv(
    config: ResNetConfig, dim: int, dim_out: int, kernel: int, *, stride: int = 1, bias: bool, norm: bool
) -> nn.Module:
    """A convolution in the manner of the net: with standardised weights where it is normaliser-free."""
    if config.alpha is not None:
        return StandardisedConv2d(dim, dim_out, kernel, stride=stride, bias=bias)
    return make_conv(config, dim, dim_out, kernel, stride=stride, bias=bias, norm=norm)


def _make_stages(config: ResNetConfig) -> list[nn.Module]:
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
        return ResidualBlock(None, Residual(branch, after, where="post", skip=projection, batch_axis=1))
    first = _first_activation(config, shape, deviation)
    scale = SkipGain(config.alpha) if config.alpha is not None else None
    if projection is not None and config.shortcut == "own":
        skip = nn.Sequential(_first_activation(config, shape, deviation), projection)
        return ResidualBlock(None, Residual(branch, first, scale=scale, skip=skip, batch_axis=1))
    if shape.is_changing or config.shortcut == "activated":
        return ResidualBlock(first, Residual(branch, scale=scale, skip=projection, batch_axis=1))
    return ResidualBlock(None, Residual(branch, first, scale=scale, batch_axis=1))


def _first_activation(config: ResNetConfig, shape: _BlockShape, deviation: float) -> Activate:
    norm = _make_norm(config, shape.dim)
    return Activate(config.activation, norm, gain=config.activation_gain, deviation=deviation)


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

    def conv(dim: int, stride: int) -> nn.Module:
        kernel, bias = config.stem_kernel, config.stem_bias
        return _make_conv(config, dim, config.stem_dim, kernel, stride=stride, bias=bias, norm=is_post)

    kernel = config.stem_pool_kernel
    pool = (
        nn.Identity()
        if config.stem_pool is None
        else make_pool(config.stem_pool, kernel, padding=kernel // 3)
    )
    first = conv(config.in_channels, config.stem_stride)
    if not is_post:
        return Repeat(config.time_steps, nn.Sequential(first, pool))
    convs = [
        Repeat(config.time_steps, first),
        *(conv(config.stem_dim, 1) for _ in range(config.stem_convs - 1)),
    ]
    units = [
        Unit(
            each,
            Activate(config.activation, gain=config.activation_gain),
            make_dropout(config.dropout) if number < config.stem_convs - 1 else None,
        )
        for number, each in enumerate(convs)
    ]
    return nn.Sequential(*units, Folded(pool))


def _make_tail(config: ResNetConfig) -> nn.Module:
    norm = _make_norm(config, config.stage_dims[-1])
    if config.tail == "activation":
        return Activate(config.activation, norm, gain=config.activation_gain)
    return Folded(norm) if config.tail == "norm" and norm is not None else nn.Identity()


def _make_norm(config: ResNetConfig, dim: int) -> nn.Module | None:
    return make_norm(config.norm, dim) if config.norm != "none" else None


def _make_head(config: ResNetConfig) -> Head:
    dropout = make_dropout(config.dropout if config.head_dropout else 0.0)
    side, dim = config.map_side, config.stage_dims[-1]
    pool = MeanPool(config.head_pool) if side is None else nn.AdaptiveAvgPool2d(side)
    return Head(pool, [dropout], nn.Linear(dim * (side or 1) ** 2, config.num_classes, config.head_bias))
