"""Convolution with scaled weight standardisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuromix.layers.standardised_conv import StandardisedConv2d


def make_conv(**options):
    torch.manual_seed(0)
    conv = StandardisedConv2d(3, 5, 3, **options).double()
    nn.init.normal_(conv.gain, 1, 0.3)
    return conv


def test_it_is_a_convolution_with_the_weights_of_the_formula():
    conv, x = make_conv(stride=2), torch.randn(2, 3, 9, 9, dtype=torch.float64)
    rows = conv.weight.reshape(5, -1)
    var = ((rows - rows.mean(1, keepdim=True)) ** 2).sum(1, keepdim=True) / (27 - 1)
    rows = conv.gain.reshape(5, 1) * (rows - rows.mean(1, keepdim=True)) / torch.sqrt(var * 27 + 1e-4)
    torch.testing.assert_close(conv(x), F.conv2d(x, rows.view(5, 3, 3, 3), conv.bias, 2, 1))


@torch.no_grad()
def test_variance_is_kept():
    torch.manual_seed(0)
    conv = StandardisedConv2d(64, 64, 3, bias=False)
    y = conv(torch.randn(4, 64, 32, 32))[..., 1:-1, 1:-1]  # the border sees zeros
    assert float(y.var()) == pytest.approx(1, rel=0.1)


def test_fused_is_an_ordinary_convolution():
    for bias in (True, False):
        conv, x = make_conv(bias=bias), torch.randn(2, 3, 6, 6, dtype=torch.float64)
        fused = conv.fused()
        assert type(fused) is nn.Conv2d and (fused.bias is not None) == bias
        torch.testing.assert_close(fused(x), conv(x))


def test_gradients():
    conv, x = make_conv(), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    weight, gain = conv.weight, conv.gain

    def run(weight, gain):
        return torch.func.functional_call(conv, {"weight": weight, "gain": gain}, x)

    assert torch.autograd.gradcheck(run, (weight, gain))
