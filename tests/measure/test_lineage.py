"""Which tensors are weights, and which are sums that no neuron has read."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuromix.measure import CountingRule, profile

CHAINED = CountingRule(linear_chain="spike", additions="rate")
SPIKES = (torch.arange(2 * 4 * 6 * 6) % 3 == 0).float().reshape(2, 4, 6, 6)


def test_binary_weights_are_no_spikes():
    net = nn.Linear(8, 4)
    nn.init.ones_(net.weight)
    seen = profile(net, torch.randn(3, 8))
    assert seen.layers[0].input == "real"
    assert seen.operations == {"mac32": 32}


class ComputedWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 8))
        self.register_buffer("mask", torch.ones(4, 8))

    def forward(self, x):
        weight = torch.zeros(4, 8)
        weight[:2] = (self.weight * self.mask * 0.5)[:2]
        return F.linear(x, weight.softmax(0).round())


def test_what_is_computed_from_weights_is_a_weight():
    assert profile(ComputedWeight(), torch.randn(3, 8)).operations == {"mac32": 32}


def test_what_is_written_into_fresh_memory_is_an_activation():
    class Gather(nn.Module):
        def forward(self, x):
            buffer = torch.zeros(3, 8)
            buffer[:, :4] = (x[:, :4] > 0).float()
            return buffer @ torch.ones(8, 8)

    x = torch.tensor([1.0, -1, 2, -2, 0, 0, 0, 0]).repeat(3, 1)
    seen = profile(Gather(), x)
    assert seen.operations == {"ac32": 2 * 8}


def chain(*between, last=None):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 1), *between, last or nn.Conv2d(8, 5, 1)).eval()


class ResidualSum(nn.Module):
    def forward(self, x):
        return x + x.roll(1, 0) * x.abs()


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x):
        return F.pad((x - self.factor) * self.factor / 2, (1, 1, 1, 1))


@pytest.mark.parametrize(
    "between",
    [
        (),
        (nn.BatchNorm2d(8),),
        (nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)),
        (Scale(), nn.Identity()),
        (nn.ZeroPad2d(1), nn.PixelShuffle(1)),
    ],
    ids=["nothing", "norm", "depthwise", "scale", "pad"],
)
def test_a_linear_chain_is_charged_at_the_rate_of_the_spikes_that_enter(between):
    net = chain(*between)
    exact, chained = profile(net, SPIKES), profile(net, SPIKES, CHAINED)
    first, *others = exact.layers
    assert first.input == "spike"
    assert all(layer.input == "real" and layer.synaptic_operations == 0 for layer in others)
    assert exact.operations["mac32"] == sum(layer.macs_dense for layer in others)
    assert "mac32" not in chained.operations
    assert chained.synaptic_operations == pytest.approx(chained.macs_dense / 3, rel=1e-6)


@pytest.mark.parametrize(
    "between",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        ResidualSum(),
        nn.AvgPool2d(2),
        nn.Softmax(1),
        nn.AdaptiveAvgPool2d(1),
    ],
    ids=["relu", "relu in place", "residual", "pool", "softmax", "global pool"],
)
def test_anything_else_ends_a_chain(between):
    seen = profile(chain(between), SPIKES, CHAINED)
    assert seen.layers[1].synaptic_operations == 0
    assert seen.operations["mac32"] == seen.layers[1].macs_dense


def test_real_numbers_start_no_chain():
    assert "ac32" not in profile(chain(), torch.randn(2, 4, 6, 6), CHAINED).operations


def test_small_integer_sums_are_no_spikes():
    net = chain()
    for p in net.parameters():
        nn.init.ones_(p)
    # The first convolution gives integers up to 5, and the second one adds them up all the same.
    assert profile(net, SPIKES).layers[1].input == "real"


def test_an_attention_without_weights_counts_spikes():
    class Attention(nn.Module):
        def forward(self, x):
            q, k, v = x.unbind(1)
            return q @ (k.mT @ v)

    q = torch.tensor([[1.0, 0], [1, 1], [0, 0]])
    k = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    v = torch.tensor([[1.0, 1], [0, 1], [0, 0]])
    x = torch.stack([q, k, v])[None]
    # k^T v: tokens 0 and 1 have nnz(k)*nnz(v) = 1*2 and 1*1. It is [[1, 2], [0, 0]], and q reads row 0 twice.
    exact = profile(Attention(), x)
    assert exact.operations == {"ac32": 3 + 4}
    assert exact.macs_dense == 2 * 3 * 2 * 2
    paper = profile(Attention(), x, "paper")
    # k^T v by both rates, q (k^T v) by that of q alone: the integer matrix is no spike train.
    assert paper.synaptic_operations == pytest.approx(12 * (3 / 6 + 3 / 6) + 12 * 3 / 6)
