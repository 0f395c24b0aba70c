"""Codings: how values that an attack changes become what a spiking net is shown.

A step function in a coding passes gradients as if it were the identity.

Shapes: B batch, T spike time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

CodingName: TypeAlias = Literal["direct", "integer", "binary", "poisson"]
# (x [B, ...], time steps of the net, chance) -> what the net is shown, [B, ...] or [B, T, ...].
Coding: TypeAlias = Callable[[Tensor, int, torch.Generator], Tensor]


def as_it_is(x: Tensor, steps: int, chance: torch.Generator) -> Tensor:
    """Nothing is done: a net shows itself an image at every step, and frames are its steps."""
    return x


def binary(x: Tensor, steps: int, chance: torch.Generator) -> Tensor:
    """1 where there is an event or more, else 0."""
    return _straight_through((x >= 1).to(x.dtype), x)


def poisson(x_BCHW: Tensor, steps: int, chance: torch.Generator) -> Tensor:
    """Spikes [B, T, C, H, W], each as likely as its value, the range of the batch being brought to [0, 1]."""
    low, high = x_BCHW.detach().amin(), x_BCHW.detach().amax()
    rate_BCHW = (x_BCHW - low) / (high - low).clamp_min(torch.finfo(x_BCHW.dtype).tiny)
    rate_BTCHW = rate_BCHW.unsqueeze(1).expand(-1, steps, *x_BCHW.shape[1:])
    drawn = torch.rand(rate_BTCHW.shape, generator=chance, dtype=x_BCHW.dtype).to(x_BCHW.device)
    return _straight_through((drawn <= rate_BTCHW).to(x_BCHW.dtype), rate_BTCHW)


def _straight_through(spikes: Tensor, x: Tensor) -> Tensor:
    return spikes + (x - x.detach())


CODINGS: Mapping[str, Coding] = {
    "direct": as_it_is,
    "integer": as_it_is,
    "binary": binary,
    "poisson": poisson,
}
