"""An activation of few bits with a learnt scale: what a spiking neuron with so many spikes can send, already in the
analog net.

Shapes: B samples, then any axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from neuromix.core import registry
from neuromix.core.config import Config


def quantised_relu(x: Tensor, scale: Tensor, levels: int) -> Tensor:
    """scale * round(clip(x / scale, 0, levels)), half to even; x [B, ...], scale [1].

    The gradient passes where 0 < x / scale < levels. That of the scale is the sum of round(u) - u there, and of u
    elsewhere, u = clip(x / scale, 0, levels), times the gradient of the output, times 1/sqrt(B * levels).
    """
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        rounded: Tensor = _QuantisedReLU.apply(x, scale, levels)  # type: ignore[no-untyped-call]
        return rounded
    return scale * (x / scale).clamp(0, levels).round()


class _QuantisedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.levels = levels
        return scale * (x / scale).clamp(0, levels).round()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, scale = ctx.saved_tensors
        u = (x / scale).clamp(0, ctx.levels)
        inside = (u > 0) & (u < ctx.levels)
        of_scale = (grads[0] * (u.round() - u * inside)).sum() / math.sqrt(max(len(x), 1) * ctx.levels)
        return grads[0] * inside, of_scale.to(scale.dtype).view_as(scale), None


@dataclass(frozen=True)
class QuantisedReLUConfig(Config):
    """Config of QuantisedReLU."""

    bits: int = 2  # 1 to 8: the levels above zero are 2^bits - 1
    scale: float = 0.5  # of a level, to start with, > 0

    def validate(self) -> None:
        self.require(1 <= self.bits <= 8, f"bits must be 1 to 8, got {self.bits}")
        self.require_positive("scale")


@registry.register("activation", "quantised_relu")
class QuantisedReLU(nn.Module):
    """A ReLU of 2^bits levels, a learnt scale apart: x [B, ...] to {0, scale, ..., levels * scale}."""

    Config: ClassVar[type[Config]] = QuantisedReLUConfig

    def __init__(self, config: QuantisedReLUConfig) -> None:
        super().__init__()
        self.levels = 2**config.bits - 1
        self.scale = nn.Parameter(torch.tensor([config.scale]))

    def forward(self, x: Tensor) -> Tensor:
        return quantised_relu(x, self.scale, self.levels)

    def after_step(self) -> None:
        """The scale stays positive, whatever the optimiser did."""
        with torch.no_grad():
            self.scale.clamp_(min=torch.finfo(self.scale.dtype).eps)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"
