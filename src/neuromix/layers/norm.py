"""Norms over feature maps, and the batch-norm that knows of repeated samples.

Shapes: B batch, C channels, H W feature map.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.errors import ConfigError

NormName: TypeAlias = Literal["group", "channel", "batch", "none"]


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position of x_BCHW: (x - mean) / sqrt(var + eps) * weight + bias."""

    def __init__(self, dim: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BHWC = F.layer_norm(x_BCHW.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return y_BHWC.movedim(-1, 1)


class MapNorm(nn.Module):
    """Mean and biased variance over C, H and W together for each sample, affine per channel (GroupNorm of 1 group)."""

    def __init__(self, dim: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.group_norm(x_BCHW, 1, self.weight, self.bias, self.eps)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch-norm whose input may stand for `copies` equal samples each (see `core.time.Repeat`).

    Mean and biased variance of repeated samples are those of the samples; only the unbiased variance that enters
    the running statistics differs, by n/(n-1) with n the number of repeated values a channel.
    """

    copies: int = 1

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not (self.training and self.copies > 1):
            return super().forward(x_BCHW)
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        # On copies: the backward pass holds on to what the kernel is given.
        mean, var = self.running_mean.clone(), self.running_var.clone()
        y_BCHW = F.batch_norm(x_BCHW, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
        n = x_BCHW.numel() // x_BCHW.shape[1]
        n_repeated = n * self.copies
        kept = (1 - self.momentum) * self.running_var
        with torch.no_grad():
            self.running_mean.copy_(mean)
            self.running_var.copy_(kept + (var - kept) * (n - 1) / n * n_repeated / (n_repeated - 1))
            self.num_batches_tracked += 1
        return y_BCHW


def make_norm(name: NormName, dim: int, eps: float = 1e-5, bias: bool = True) -> nn.Module:
    """A norm over x_BCHW by name: "group" (C, H and W together), "channel", "batch" or "none"."""
    if name == "group":
        return MapNorm(dim, eps, bias)
    if name == "channel":
        return ChannelNorm(dim, eps, bias)
    if name == "batch":
        return BatchNorm2d(dim, eps)
    if name == "none":
        return nn.Identity()
    raise ConfigError(f"unknown norm {name!r}; known: group, channel, batch, none")
