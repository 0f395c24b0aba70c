"""A convolution whose weights are standardised, for nets without norms.

Shapes: B batch, C channels, H W feature map; O output channels, n = C*kernel^2 weights of one output channel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StandardisedConv2d(nn.Conv2d):
    """Convolution with scaled weight standardisation (Brock et al., ICLR 2021).

    It runs with gain * (weight - mean) / sqrt(var * n + eps), mean and unbiased variance over the n weights of an
    output channel, so that its output has about the variance of its input. `gain` [O, 1, 1, 1] starts at 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        bias: bool = True,
        eps: float = 1e-4,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(out_channels, 1, 1, 1))

    @property
    def standardised_weight(self) -> Tensor:
        """What the convolution runs with, [O, C, kernel, kernel]."""
        var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=1, keepdim=True)
        return self.gain * (self.weight - mean) / torch.sqrt(var * self.weight[0].numel() + self.eps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.conv2d(x_BCHW, self.standardised_weight, self.bias, self.stride, self.padding)

    def fused(self) -> nn.Conv2d:
        """The same convolution with its weights as they are after standardisation."""
        with torch.device("meta"):
            fused = nn.Conv2d(
                self.in_channels,
                self.out_channels,
                self.kernel_size,  # type: ignore[arg-type]
                self.stride,  # type: ignore[arg-type]
                self.padding,  # type: ignore[arg-type]
            )
        fused.weight = nn.Parameter(self.standardised_weight.detach().clone())
        fused.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return fused
