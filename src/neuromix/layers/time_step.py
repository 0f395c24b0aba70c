"""How the step widths of a state-space layer start, and what such a layer computes in."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def initial_step_bias(size: int, low: float, high: float, floor: float) -> Tensor:
    """The bias [size] whose softplus is a step width drawn log-uniformly from [low, high], at least `floor`."""
    log_low, log_high = math.log(low), math.log(high)
    step = torch.exp(torch.rand(size) * (log_high - log_low) + log_low).clamp(min=floor)
    return step + torch.log(-torch.expm1(-step))  # the inverse of softplus


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider: decays of half precision would be far off after a thousand steps."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
