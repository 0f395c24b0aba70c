"""What the values of one operand say: spikes or real numbers, and how many are not zero."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Larger integers are data (pixels, token numbers), not spikes: an integer neuron sends at most a few bits.
LARGEST_SPIKE = 15


class Values(NamedTuple):
    """Statistics of a tensor.

    `level` is its largest value if all are integers in 0..LARGEST_SPIKE (at most 1 for binary spikes), and None if
    it holds real numbers. A tensor of zeros, or an empty one, holds spikes: none of them asks for a product.
    `ternary` says whether all are -1, 0 or 1: what NeuroBench takes for spikes.
    """

    elements: int
    nonzero: int
    total: int  # sum of the values, where they are spikes
    level: int | None
    ternary: bool = False

    @property
    def rate(self) -> float:
        """Share of the elements that are not zero; 0 for an empty tensor."""
        return self.nonzero / self.elements if self.elements else 0.0

    @property
    def mean(self) -> float:
        """Mean value where these are spikes; 0 for an empty tensor."""
        return self.total / self.elements if self.elements else 0.0


def values_of(x: Tensor) -> Values:
    """Reads the values of `x`: any shape, dtype and device but meta, where they count as real and non-zero."""
    if x.is_meta:
        return Values(x.numel(), x.numel(), 0, None)
    if x.numel() == 0:
        return Values(0, 0, 0, 0, ternary=True)
    level = _level(x)
    if level is None:
        return Values(x.numel(), int(x.count_nonzero()), 0, None, _is_ternary(x))
    total = int(sent(x, tuple(range(x.dim())), by_value=True))
    return Values(x.numel(), total if level <= 1 else int(x.count_nonzero()), total, level, level <= 1)


def sent(x: Tensor, axes: tuple[int, ...], by_value: bool) -> Tensor:
    """Sums over `axes` how often each spike makes its receivers add: int64.

    Args:
        x: spikes.
        by_value: a spike of value n counts n times, not once.
    """
    if not by_value or x.dtype == torch.bool:
        return (x != 0).sum(axes)
    if x.is_floating_point():
        return x.sum(axes, dtype=torch.float64).to(torch.int64)  # exact: the sums are far below 2^53
    return x.sum(axes, dtype=torch.int64)


def _level(x: Tensor) -> int | None:
    """The largest value if all are integers in 0..LARGEST_SPIKE, else None."""
    if x.dtype == torch.bool:
        return 1
    if x.is_complex() or x.is_quantized:
        return None
    return _level_of(x) if _level_of(_middle_row(x)) is not None else None


def _middle_row(x: Tensor) -> Tensor:
    """Nearly every real tensor shows in one row what it is; only the others are read as a whole."""
    return x[tuple(side // 2 for side in x.shape[:-1])]


def _level_of(x: Tensor) -> int | None:
    low, high = (float(bound) for bound in x.aminmax())
    if not (low >= 0 and high <= LARGEST_SPIKE):  # also where either is NaN
        return None
    return int(high) if not x.is_floating_point() or bool((x == x.trunc()).all()) else None


def _is_ternary(x: Tensor) -> bool:
    """Whether all are -1, 0 or 1; never where one is NaN."""
    if x.is_complex() or x.is_quantized:
        return False
    return all(bool((part == part.sign()).all()) for part in (_middle_row(x), x))
