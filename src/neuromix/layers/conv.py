"""Convolutions that end in a batch-norm, and their exact fusion to one convolution.

Shapes: B batch, C channels, H W feature map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.layers.integer_weights import IntegerWeights, effective_weight
from neuromix.layers.norm import BatchNorm2d


class Affine(NamedTuple):
    """What a batch-norm does in eval mode: x * scale + shift, a channel."""

    scale: Tensor
    shift: Tensor


def bn_affine(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> Affine:
    """The affine map of a batch-norm with its running statistics."""
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return Affine(scale, bn.bias - bn.running_mean * scale)


class ConvBN(nn.Module):
    """Convolution, then batch-norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)
        self.bn = BatchNorm2d(out_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x_BCHW))
        return y

    def fused(self) -> nn.Module:
        """One convolution with the same output in eval mode; integer weights stay integers."""
        scale, shift = bn_affine(self.bn)
        bias = shift if self.conv.bias is None else self.conv.bias * scale + shift
        return _scaled(self.conv, scale, bias)


class BatchNormPad(nn.Module):
    """Batch-norm, then padding with the value that it gives to zero (BNAndPad).

    With it, a 1x1 convolution before and an unpadded convolution behind equal one zero-padded convolution. The
    value is b - mean*g/sqrt(var + eps) of the running statistics, in training too, and carries no gradient.
    """

    def __init__(self, dim: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.bn = BatchNorm2d(dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.bn(x_BCHW)
        p = self.padding
        border = bn_affine(self.bn).shift.detach()[:, None, None]
        return F.pad(y_BCHW - border, (p, p, p, p)) + border if p else y_BCHW


class RepConvBN(nn.Module):
    """RepConv and the batch-norm behind it: a 3x3 convolution over-parameterised for training.

    Conv1x1 -> BN with padding -> depthwise Conv3x3 -> Conv1x1 -> BN -> BN, without a nonlinearity inside.
    """

    def __init__(self, dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        out_dim = dim if out_dim is None else out_dim
        self.reduce = nn.Conv2d(dim, dim, 1, bias=False)
        self.pad = BatchNormPad(dim, 1)
        self.depthwise = nn.Conv2d(dim, dim, 3, groups=dim, bias=False)
        self.expand = nn.Conv2d(dim, out_dim, 1, bias=False)
        self.inner_bn = BatchNorm2d(out_dim)
        self.outer_bn = BatchNorm2d(out_dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.expand(self.depthwise(self.pad(self.reduce(x_BCHW))))
        y_BCHW: Tensor = self.outer_bn(self.inner_bn(y))
        return y_BCHW

    def fused(self) -> nn.Conv2d:
        """One zero-padded 3x3 convolution with the same output in eval mode, borders included.

        W[o,i,y,x] = S[o] * sum_c P[o,c] D[c,y,x] G[c] A[c,i] and
        bias = S * sum_c P[o,c] (sum_yx D[c,y,x]) pad[c] + shift.
        """
        reduce, depthwise, expand = map(effective_weight, self.factored())
        weight = torch.einsum("oc,cyx,ci->oiyx", expand[:, :, 0, 0], depthwise[:, 0], reduce[:, :, 0, 0])
        template = nn.Conv2d(reduce.shape[1], len(expand), 3, padding=1, device="meta")
        return _conv_like(template, weight, self._bias())

    def factored(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Pointwise, zero-padded depthwise and pointwise convolution that together give the same output in eval mode.

        A batch-norm that pads with its value at zero is its scale, zero padding, and its shift everywhere. Integer
        weights stay integers.
        """
        first, scale = (
            bn_affine(self.pad.bn).scale,
            bn_affine(self.inner_bn).scale * bn_affine(self.outer_bn).scale,
        )
        return (
            _scaled(self.reduce, first, None),
            _scaled(self.depthwise, None, None, padding=(1, 1)),
            _scaled(self.expand, scale, self._bias()),
        )

    def _bias(self) -> Tensor:
        """What the three batch-norms add to each output, in eval mode."""
        inner, outer, first = bn_affine(self.inner_bn), bn_affine(self.outer_bn), bn_affine(self.pad.bn)
        project, taps = effective_weight(self.expand)[:, :, 0, 0], effective_weight(self.depthwise)[:, 0]
        added = project @ (taps.sum((1, 2)) * first.shift)
        return (inner.scale * added + inner.shift) * outer.scale + outer.shift


def _scaled(
    conv: nn.Conv2d, scale: Tensor | None, bias: Tensor | None, padding: tuple[int, int] | None = None
) -> nn.Module:
    """The convolution with its outputs scaled, this bias, and (if given) another padding."""
    if isinstance(conv, IntegerWeights):
        return conv.scaled(scale, bias, padding)
    weight = conv.weight if scale is None else conv.weight * scale[:, None, None, None]
    return _conv_like(conv, weight, bias, padding)


def _conv_like(
    conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, padding: tuple[int, int] | None = None
) -> nn.Conv2d:
    with torch.device("meta"):
        fused = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding if padding is None else padding,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=bias is not None,
        )
    fused.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        fused.bias = nn.Parameter(bias.detach().clone())
    return fused
