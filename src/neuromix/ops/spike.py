"""The spike: a step function forward, a surrogate derivative backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Derivative = Callable[[Tensor], Tensor]
# Given the u of each step of a run in turn, the derivative to use at that step.
Steps = Callable[[Tensor], Derivative]


class Slope(NamedTuple):
    """A surrogate derivative that the fused kernels know.

    Args:
        kind: one of `KINDS`.
        shape: its alpha or width.
        scale: a factor on the derivative.
        closed: whether the border of a rectangle belongs to it.
    """

    kind: str
    shape: float
    scale: float = 1.0
    closed: bool = True


KINDS = ("sigmoid", "atan", "triangle", "rectangle", "fast_sigmoid", "erf")


class SurrogateGradient(Protocol):
    """What takes the place of the derivative of the step function."""

    def derivative(self, u: Tensor) -> Tensor:
        """ds/du at the distance `u` from the threshold; shape and dtype of `u`."""

    def fused(self) -> Slope | None:
        """The same for a kernel, or None: then the reference runs."""

    def steps(self) -> Steps:
        """The derivatives of one run along time."""

    @property
    def looks_back(self) -> bool:
        """Whether the derivative of a step depends on the steps before it, which then must be in the same call."""


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
