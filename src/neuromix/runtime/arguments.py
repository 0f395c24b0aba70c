"""What a rule asks of its arguments: a map, one number a channel, a side each.

Shapes: T spike time, B batch, C channels, H W feature map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from neuromix.runtime.traced import Traced

Sides: TypeAlias = int | Sequence[int]
Operand: TypeAlias = Traced | Tensor | float


def read(x: Traced) -> Traced:
    """x, for a node that reads its map.

    Raises:
        UnsupportedError: it has been pooled in a way that only a linear layer can take in.
    """
    if x.resize is not None:
        sides, wanted = list(x.graph.shape(x.node)[1:]), list(x.axes[1:])
        raise x.graph.unsupported(
            f"adaptive pooling of a map {sides} to {wanted}, which do not divide, needs a linear layer behind it"
        )
    return x


def on_map(x: Traced, leading: int | None = 1) -> Traced:
    """x, for a node that needs a map x_BCHW (with leading axes T, B if `leading` is None)."""
    read(x)
    if len(x.axes) != 3 or x.axes != x.graph.shape(x.node) or leading not in (None, x.leading):
        raise x.graph.unsupported(f"needs a map [B, C, H, W], got a value {list(x.shape)}")
    return x


def channels(x: Traced, constant: Any) -> Tensor:
    """A constant that is broadcast over x, as a number for each channel, float64 [C]."""
    value = torch.as_tensor(constant, dtype=torch.float64)
    lengths = [1] * (x.dim() - value.dim()) + [*value.shape]
    if math.prod(lengths) > 1 and (
        len(lengths) != x.dim() or math.prod(lengths) != lengths[x.leading] or x.leading == x.dim()
    ):
        raise x.graph.unsupported(
            f"a constant {list(value.shape)} is not one number a channel of {list(x.shape)}"
        )
    return over_channels(x, value.flatten())


def over_channels(x: Traced, values: Tensor) -> Tensor:
    """Numbers along the first axis of x behind T and B - or one for all - as one for each channel, float64 [C].

    Where that axis is heads, each number stands for the channels of a head.
    """
    channels_in = x.graph.shape(x.node)[0]
    values = values.detach().to(torch.float64).flatten()
    if len(values) not in (1, x.axes[0]) or channels_in % len(values):
        raise x.graph.unsupported(f"{len(values)} numbers for the {channels_in} channels of {list(x.shape)}")
    return values.repeat_interleave(channels_in // len(values))


def pair(sides: Sides) -> list[int]:
    """One number for both sides, or one each, as a list of two."""
    both = [sides, sides] if isinstance(sides, int) else [*sides]
    return both if len(both) == 2 else both * 2
