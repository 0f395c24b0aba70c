"""Convolutions over the occupied voxels of sparse grids, and the norm between them.

Shapes: T spike time, N sites, M sites of the outputs, K taps, I input and O output channels, C channels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.layers.sites import Neighbours
from neuromix.ops.sparse_conv import sparse_conv


class SparseConv3d(nn.Module):
    """Products between neighbouring sites: y[m] = sum over taps k of x[table[k, m]] @ weight[k], without bias.

    Which sites are neighbours is an argument: those of `Sites.neighbours` make a submanifold convolution, which keeps
    the sites; those of `Sites.down` a strided one; and these swapped the inverse of a strided one, which gives the
    sites from before it back.

    The weight is [K, I, O], with the K taps of the kernel in the order of their offsets, the last axis first to change.

    Args:
        kernel: side of the kernel.
        init: "truncated_normal" of deviation 0.02, or "kaiming_uniform" (a = sqrt 5, over the fan-in).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        init: Literal["truncated_normal", "kaiming_uniform"] = "truncated_normal",
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel**3, in_channels, out_channels))
        if init == "truncated_normal":
            nn.init.trunc_normal_(self.weight, std=0.02)
        else:
            bound = 1 / math.sqrt(kernel**3 * in_channels)
            nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x_TNI: Tensor, neighbours: Neighbours) -> Tensor:
        """x_TNI, rows in the order of the sites, to [T, M, O].

        Raises:
            ShapeError: other channels, or other rows than the sites have.
        """
        return torch.stack([sparse_conv(x_NI, self.weight, *neighbours) for x_NI in x_TNI])

    def extra_repr(self) -> str:
        taps, inputs, outputs = self.weight.shape
        return f"{inputs}, {outputs}, taps={taps}"


class SiteNorm(nn.BatchNorm1d):
    """Batch-norm over the sites of all samples and steps: x_TNC to [T, N, C].

    A single row has no variance, none has no mean: these are normalised by the running statistics in training too.
    """

    def __init__(self, channels: int, eps: float = 1e-3, momentum: float = 0.01) -> None:
        super().__init__(channels, eps, momentum)

    def forward(self, x_TNC: Tensor) -> Tensor:
        x_NC = x_TNC.flatten(0, 1)
        if len(x_NC) > 1:
            y_NC = super().forward(x_NC)
        else:
            y_NC = F.batch_norm(
                x_NC, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return y_NC.view_as(x_TNC)
