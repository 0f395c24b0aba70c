"""What a selective scan by the fused kernel costs.

Shapes: B batch, L tokens, D channels, N states of a channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import neuromix.ops.selective_scan  # noqa: F401 (defines the op)
from neuromix.measure.products import Product, counts


@dataclass(frozen=True)
class Scan(Product):
    """h = exp(delta A) h + (delta x) B, y = C . h: 4 multiply-adds for each state of each step.

    They are delta A, (delta x) B, the decay of h and the product with C. The kernel skips nothing where an input is
    zero.
    """

    x_BLD: Tensor
    A_DN: Tensor

    @property
    def macs(self) -> int:  # type: ignore[override]
        return 4 * self.x_BLD.numel() * self.A_DN.shape[1]

    @property
    def dense(self) -> int:  # type: ignore[override]
        return self.macs

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.x_BLD.numel()

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        return (self.x_BLD, self.A_DN)

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return (self.x_BLD,)

    def additions(self, sender: int, by_value: bool, pairs: bool) -> int:
        return self.macs

    def effective(self) -> int:
        return self.macs


@counts(torch.ops.neuromix.selective_scan)
def _selective_scan(x_BLD: Tensor, _delta: Tensor, A_DN: Tensor, *_: object) -> list[Product]:
    return [Scan(x_BLD, A_DN)]
