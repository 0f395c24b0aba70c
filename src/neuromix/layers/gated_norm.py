"""The gated root-mean-square norm of groups of channels.

Shapes: D channels, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.layers.time_step import wide


class GatedGroupRMSNorm(nn.Module):
    """y = weight * rms_norm(x * silu(z)), or weight * rms_norm(x) * silu(z) where the norm comes first.

    Each of the `groups` equal parts of the channels is divided by the root of its own mean square (+ eps).

    Args:
        dim: D, a multiple of `groups`.
    """

    def __init__(
        self, dim: int, groups: int = 1, *, norm_before_gate: bool = False, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.groups, self.norm_before_gate, self.eps = groups, norm_before_gate, eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x and z [..., D]; computed in float32 or wider, returned in the dtype of z."""
        gate = F.silu(wide(z))
        y = wide(x) if self.norm_before_gate else wide(x) * gate
        y = F.rms_norm(torch.unflatten(y, -1, (self.groups, -1)), (y.shape[-1] // self.groups,), eps=self.eps)
        y = y.flatten(-2) * self.weight
        return (y * gate if self.norm_before_gate else y).to(z.dtype)
