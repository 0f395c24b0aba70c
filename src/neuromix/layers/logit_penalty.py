"""A pull on the largest logit that is a gradient only (RWKV's L2Wrap).

Shapes: ... any axes, V classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LogitPenalty(nn.Module):
    """Identity that in training adds strength/N * max_v logit to the gradient of the largest logit of each of N places.

    The term is absolute: what the gradient from above is multiplied by (a scaled loss, micro-batches) does not reach
    it. The loss has no such term.
    """

    def __init__(self, strength: float = 1e-4) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, logits: Tensor) -> Tensor:
        """logits: [..., V]."""
        if not self.training or self.strength == 0:
            return logits
        pulled: Tensor = _Pull.apply(logits, self.strength)  # type: ignore[no-untyped-call]
        return pulled

    def extra_repr(self) -> str:
        return f"strength={self.strength}"


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, strength: float) -> Tensor:
        largest, where = logits.max(-1, keepdim=True)
        ctx.save_for_backward(largest, where)
        ctx.factor = strength / max(where.numel(), 1)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        largest, where = ctx.saved_tensors
        return grads[0].scatter_add(-1, where, (ctx.factor * largest).to(grads[0].dtype)), None
