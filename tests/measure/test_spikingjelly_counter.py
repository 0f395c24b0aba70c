"""Counts of SpikingJelly's networks, as they are, against SpikingJelly's own counters on the same input.

What differs is tested as the formula by which it does; docs/measuring.md explains it.

Shapes: T spike time, B batch, C channels, H W feature map, L tokens.
"""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuromix.measure import profile

pytest.importorskip("spikingjelly", reason="compares with spikingjelly")

from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.layer.attention import SpikingSelfAttention
from spikingjelly.activation_based.model.parametric_lif_net import MNISTNet
from spikingjelly.activation_based.op_counter import (
    ACCounter,
    DispatchCounterMode,
    FlopCounter,
    MACCounter,
    SimpleEnergyConfig,
    SynOpCounter,
    estimate_simple_energy,
)

aten = torch.ops.aten
PRODUCTS = (aten.convolution.default, aten.mm.default, aten.addmm.default, aten.bmm.default)


def theirs(net, x, counter):
    """What a counter finds in one run from rest, by op."""
    functional.reset_net(net)
    with torch.no_grad(), DispatchCounterMode([counter]):
        net.eval()(x)
    functional.reset_net(net)  # its neurons remember
    return dict(counter.records["Global"])


def of_products(found):
    return sum(found.get(op, 0) for op in PRODUCTS)


def ours(net, x):
    """Our profile of all samples together."""
    functional.reset_net(net)
    seen = profile(net, x, batch_size=1)
    functional.reset_net(net)
    assert not seen.not_counted
    return seen


def lif(**options):
    return neuron.LIFNode(step_mode="m", surrogate_function=surrogate.ATan(), **options)


def convolutional(bias=True):
    """Convolutions with borders, strides and groups; norms; two kinds of neuron; a linear layer."""
    return nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, bias=bias, step_mode="m"),
        layer.BatchNorm2d(8, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.Conv2d(8, 12, 3, padding=1, stride=2, groups=4, bias=bias, step_mode="m"),
        layer.BatchNorm2d(12, step_mode="m"),
        lif(v_threshold=0.2),
        layer.ConvTranspose2d(12, 4, 3, stride=2, padding=1, bias=bias, step_mode="m"),
        lif(v_threshold=0.1),
        layer.MaxPool2d(2, step_mode="m"),
        layer.Flatten(step_mode="m"),
        layer.Linear(36, 5, bias=bias, step_mode="m"),
    )


NETS = {
    "convolutional": lambda: (convolutional(), (4, 3, 2, 7, 7)),
    "without biases": lambda: (convolutional(bias=False), (2, 1, 2, 7, 7)),
    "a net of theirs": lambda: (multi_step(MNISTNet(4, spiking_neuron=neuron.IFNode)), (2, 2, 1, 28, 28)),
}


def multi_step(net):
    functional.set_step_mode(net, "m")
    return net


@pytest.fixture(params=NETS)
def case(request):
    torch.manual_seed(0)
    net, shape = NETS[request.param]()
    return net.eval(), 3 * torch.rand(shape)


def test_synaptic_operations_are_equal(case):
    seen = ours(*case)
    assert seen.synaptic_operations > 0
    assert seen.synaptic_operations == sum(theirs(*case, SynOpCounter()).values())
    assert seen.synaptic_operations == of_products(theirs(*case, ACCounter()))


def test_multiply_adds_are_equal_but_for_norms(case):
    """Theirs charge one a number that a norm scales; ours charge norms to no one, since they fold."""
    net, x = case
    norms = outputs_of(net, x, nn.BatchNorm2d)
    assert norms > 0
    assert sum(theirs(net, x, MACCounter()).values()) == ours(net, x).operations["mac32"] + norms


def test_flops_are_twice_the_multiply_adds_and_the_biases(case):
    net, x = case
    biases = sum(outputs_of(net, x, kind, where=lambda m: m.bias is not None) for kind in WEIGHTED)
    assert of_products(theirs(net, x, FlopCounter())) == 2 * ours(net, x).macs_dense + biases


def test_energy_of_arithmetic_is_equal_without_norms_and_neurons(case):
    """By their prices and counts; of additions the synaptic ones, for among the others are some that their profiler
    makes itself."""
    net, x = case
    functional.reset_net(net)
    found = estimate_simple_energy(net, x, config=SimpleEnergyConfig(extra_ignore_modules=NOT_CHARGED))
    prices = found.config.cost_config
    picojoules = prices.e_mac_pj * found.counts["mac"] + prices.e_ac_pj * found.counts["synop"]
    assert 1e9 * ours(net, x).energy["45nm"] == pytest.approx(picojoules, rel=1e-9)


NOT_CHARGED = [nn.BatchNorm2d, neuron.BaseNode]
WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def outputs_of(net, x, kind, where=lambda module: True):
    """Numbers that modules of a kind give in one run."""
    given = []
    handles = [
        module.register_forward_hook(lambda _, __, y: given.append(y.numel()))
        for module in net.modules()
        if isinstance(module, kind) and where(module)
    ]
    functional.reset_net(net)
    with torch.no_grad():
        net(x)
    functional.reset_net(net)
    for handle in handles:
        handle.remove()
    return sum(given)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_convolution_of_spikes(data):
    """The additions that happen, borders included: theirs by convolving, ours by counting taps."""
    number = st.integers
    groups, kernel = data.draw(number(1, 3)), (data.draw(number(1, 4)), data.draw(number(1, 4)))
    transposed = data.draw(st.booleans())
    net = (nn.ConvTranspose2d if transposed else nn.Conv2d)(
        groups * data.draw(number(1, 3)),
        groups * data.draw(number(1, 3)),
        kernel,
        stride=data.draw(number(1, 3)),
        padding=data.draw(number(0, min(kernel) - 1)),
        groups=groups,
        dilation=1 if transposed else data.draw(number(1, 2)),
    )
    torch.manual_seed(data.draw(number(0, 99)))
    x = (torch.rand(2, net.in_channels, 8, 9) < data.draw(st.floats(0, 1))).float()
    assert ours(net, x).synaptic_operations == of_products(theirs(net, x, SynOpCounter()))


class SumOfSpikes(nn.Module):
    """As in a residual net of spikes: two of them may meet in one place."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)

    def forward(self, x_BCHW):
        return self.conv((x_BCHW > 0.5).float() + (x_BCHW > 0.7).float())


def test_spikes_that_add_up():
    """Theirs take 2 for a real number, and charge every multiply-add; ours make it two additions."""
    torch.manual_seed(0)
    net, x = SumOfSpikes(), torch.rand(2, 3, 6, 6)
    seen = ours(net, x)
    assert of_products(theirs(net, x, MACCounter())) == seen.macs_dense and "mac32" not in seen.operations
    parts = [SumOfSpikes(), SumOfSpikes()]
    one, other = ((x > bound).float() for bound in (0.5, 0.7))
    added = sum(
        of_products(theirs(part.conv, spikes, SynOpCounter()))
        for part, spikes in zip(parts, (one, other), strict=True)
    )
    assert seen.synaptic_operations == added
    assert of_products(theirs(net, x, SynOpCounter())) == 0


def test_weights_that_happen_to_be_binary():
    """Theirs look at values alone, and take them for spikes; ours know a weight by where it comes from."""
    net, x = nn.Linear(6, 4, bias=False), torch.randn(3, 6)
    nn.init.ones_(net.weight)
    assert of_products(theirs(net, x, MACCounter())) == 0
    assert of_products(theirs(net, x, SynOpCounter())) == 3 * 6 * 4
    assert ours(net, x).operations == {"mac32": 3 * 6 * 4}


def test_attention():
    """v k^T is a product of spikes: pairs that meet, in both. What comes of it is real, and q selects among it:
    theirs add for each spike of q a whole row, ours only what is not zero in it."""
    torch.manual_seed(0)
    net = SpikingSelfAttention(16, num_heads=2)
    for module in net.modules():
        if isinstance(module, neuron.BaseNode):
            module.v_threshold = 0.3
    x_TBCL = (torch.rand(3, 2, 16, 5) < 0.5).float()
    seen_qkv = []
    handle = net.qkv_lif.register_forward_hook(lambda _, __, y: seen_qkv.append(y))
    ours_total, theirs_total = ours(net, x_TBCL).operations, sum(theirs(net, x_TBCL, SynOpCounter()).values())
    handle.remove()
    q, k, v = seen_qkv[0].reshape(3, 2, 3, 2, 8, 5).flatten(2, 3).chunk(3, dim=2)  # [T, B, heads, 8, L]
    vk = v @ k.mT
    assert vk.max() > 1  # else theirs would take it for spikes
    whole_rows = 8 * int(q.sum())
    met = int(((vk != 0).float() @ q).sum())
    assert 0 < met < whole_rows
    assert theirs_total - ours_total["ac32"] == whole_rows - met
    assert "mac32" not in ours_total


def test_fused_attention():
    """Theirs have no rule for multiply-adds of the fused op, and leave it out; ours count both its products."""
    net = Attention()
    q = torch.randn(2, 3, 5, 4)
    assert theirs(net, q, MACCounter()) == {}
    assert ours(net, q).operations == {"mac32": 2 * prod((2, 3, 5, 5, 4))}
    assert sum(theirs(net, q, FlopCounter()).values()) == 2 * ours(net, q).macs_dense


class Attention(nn.Module):
    """Softmax attention of a tensor with itself."""

    def forward(self, q_BHLK):
        return nn.functional.scaled_dot_product_attention(q_BHLK, q_BHLK, q_BHLK)


def test_a_profile_leaves_potentials_as_they_were():
    """Their neurons remember; a profile starts from what is there and takes nothing along."""
    torch.manual_seed(0)
    net = nn.Sequential(lif(v_threshold=2.0), layer.Linear(4, 3, step_mode="m"))
    x_TBC = torch.full((1, 2, 4), 3.0)
    functional.reset_net(net)
    once, again = (profile(net, x_TBC, batch_size=2).synaptic_operations for _ in range(2))
    with torch.no_grad():
        net(x_TBC)
    after_a_run = profile(net, x_TBC, batch_size=2).synaptic_operations
    assert once == again == 0 < after_a_run
