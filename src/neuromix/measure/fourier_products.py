"""What fast Fourier transforms cost: 2 n log2 n multiply-adds for n complex numbers, half as many for n real ones.

n/2 log2 n butterflies, of one complex product each, which is four real ones.

Shapes: X everything that is transformed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuromix.measure.products import Product, counts

aten = torch.ops.aten


@dataclass(frozen=True)
class FourierTransform(Product):
    """A transform along axes of `sides` numbers; a zero among them saves nothing."""

    x_X: Tensor
    transforms: int
    sides: tuple[int, ...]
    is_real: bool

    @property
    def macs(self) -> int:  # type: ignore[override]
        points = math.prod(self.sides)
        one = round(points * math.log2(max(points, 1)) * (1 if self.is_real else 2))
        return self.transforms * one

    @property
    def dense(self) -> int:  # type: ignore[override]
        return self.macs

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.transforms * math.prod(self.sides)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        return (self.x_X, torch.empty(0, device="meta"))  # roots of one are not stored

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return (self.x_X,)

    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        return self.macs

    def effective(self) -> int:
        return self.macs


@counts(aten._fft_r2c)
def _of_real(x_X: Tensor, axes: Sequence[int], *_: object) -> list[Product]:
    return [_transform(x_X, [x_X.shape[axis] for axis in axes], axes, is_real=True)]


@counts(aten._fft_c2c)
def _of_complex(x_X: Tensor, axes: Sequence[int], *_: object) -> list[Product]:
    return [_transform(x_X, [x_X.shape[axis] for axis in axes], axes, is_real=False)]


@counts(aten._fft_c2r)
def _to_real(x_X: Tensor, axes: Sequence[int], _norm: int, last: int) -> list[Product]:
    """Half of the spectrum is given, and `last` numbers along the last axis come out."""
    return [_transform(x_X, [*(x_X.shape[axis] for axis in axes[:-1]), last], axes, is_real=True)]


def _transform(x_X: Tensor, sides: Sequence[int], axes: Sequence[int], *, is_real: bool) -> Product:
    lines = x_X.numel() // max(1, math.prod(x_X.shape[axis] for axis in axes))
    return FourierTransform(x_X, lines, tuple(sides), is_real)
