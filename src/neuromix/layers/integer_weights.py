"""Layers whose weights are small integers times a step of each output channel, as they are deployed.

Shapes: B batch, C input channels, O output channels, H W feature map, F features; n integers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class IntegerWeights(nn.Module):
    """Base of layers that multiply with step_O * n_O..., where n fits into `bits` bits, sign included."""

    bits: int

    def integers(self) -> Tensor:
        """n, int8 [O, ...]."""
        raise NotImplementedError

    def steps(self) -> Tensor:
        """The step of each output channel, [O]."""
        raise NotImplementedError

    def scaled(
        self, scale_O: Tensor | None = None, bias_O: Tensor | None = None, padding: Any = None
    ) -> nn.Module:
        """The layer with the same integers, fixed, its steps times `scale_O`, and this bias."""
        raise NotImplementedError


class FixedIntegers(IntegerWeights):
    """Base of layers whose integers are fixed; those of up to 4 bits are kept two a byte."""

    def __init__(self, integers: Tensor, step_O: Tensor, bias_O: Tensor | None, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.shape = tuple(integers.shape)
        self.register_buffer("codes", pack(integers) if bits <= 4 else integers)
        self.step = nn.Parameter(step_O.detach().clone())
        self.bias = None if bias_O is None else nn.Parameter(bias_O.detach().clone())

    def integers(self) -> Tensor:
        codes = self.get_buffer("codes")
        return unpack(codes, self.shape) if self.bits <= 4 else codes

    def steps(self) -> Tensor:
        return self.step

    @property
    def weight(self) -> Tensor:
        """What the layer multiplies with, in the dtype of its steps."""
        return self.integers() * self.step.view(-1, *(1,) * (len(self.shape) - 1))

    def extra_repr(self) -> str:
        return f"{list(self.shape)}, bits={self.bits}"


class Geometry(NamedTuple):
    """How a convolution samples its input, in the order of the arguments of `F.conv2d`."""

    stride: Any
    padding: Any
    dilation: Any
    groups: int


class IntegerConv2d(FixedIntegers):
    """A convolution with fixed integers."""

    def __init__(
        self, integers: Tensor, step_O: Tensor, bias_O: Tensor | None, bits: int, geometry: Geometry
    ) -> None:
        super().__init__(integers, step_O, bias_O, bits)
        self.geometry = geometry

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.conv2d(x_BCHW, self.weight, self.bias, *self.geometry)

    def scaled(
        self, scale_O: Tensor | None = None, bias_O: Tensor | None = None, padding: Any = None
    ) -> IntegerConv2d:
        step_O = self.step if scale_O is None else self.step * scale_O
        geometry = self.geometry if padding is None else self.geometry._replace(padding=padding)
        return IntegerConv2d(self.integers(), step_O, bias_O, self.bits, geometry)


class IntegerLinear(FixedIntegers):
    """A linear layer [..., F] -> [..., O] with fixed integers."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def effective_weight(layer: nn.Module) -> Tensor:
    """What a convolution or linear layer multiplies with."""
    if isinstance(layer, IntegerWeights):
        step = layer.steps()
        integers = layer.integers()
        return integers * step.view(-1, *(1,) * (integers.dim() - 1))
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def pack(integers: Tensor) -> Tensor:
    """Integers in -8..7, of any shape, as two's complement of 4 bits, two a byte, the first one low: uint8 [n/2]."""
    nibbles = (integers.flatten().to(torch.int16) & 15).to(torch.uint8)
    if len(nibbles) % 2:
        nibbles = torch.cat([nibbles, nibbles.new_zeros(1)])
    return nibbles[0::2] | (nibbles[1::2] << 4)


def unpack(codes: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undoes `pack`: int8 of this shape."""
    nibbles = torch.stack([codes & 15, codes >> 4], 1).flatten()[: torch.Size(shape).numel()]
    return ((nibbles ^ 8).to(torch.int8) - 8).view(shape)
