"""The spike: a step function forward, a surrogate derivative backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Derivative = Callable[[Tensor], Tensor]


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, derivative: Derivative, strict: bool) -> Tensor:
        ctx.save_for_backward(u)
        ctx.derivative = derivative
        return (u > 0 if strict else u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (u,) = ctx.saved_tensors
        return grads[0] * ctx.derivative(u), None, None


def spike(u: Tensor, derivative: Derivative, strict: bool = False) -> Tensor:
    """1 where u >= 0 (u > 0 if `strict`), else 0; its gradient is `derivative(u)`.

    Args:
        u: distance of the membrane potential from the threshold, any shape, floating point.
    """
    result: Tensor = _Spike.apply(u, derivative, strict)  # type: ignore[no-untyped-call]
    return result
