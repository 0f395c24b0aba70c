"""Dense multiply-adds against PyTorch's own counter: its FLOPs are twice our MACs, for every product that it knows.

Shapes: B batch, C channels, H W feature map, L sequence, D width.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from neuromix.core import registry
from neuromix.core.model import call
from neuromix.measure import FourierTransform, Scan, profile
from neuromix.measure.lineage import Lineage
from tests.catalogue import own_entries

# It knows of no rows that are gathered with weights, and of no sparse convolution.
GATHERED = (torch.ops.aten._embedding_bag, torch.ops.aten._embedding_bag_forward_only)


def weighted_rows(table, indices, *_, out_shape=None, **options):
    return 2 * indices[0] * table[1]


def pairs_of_sites(x, weight, table, inverse, out_val=None):
    return 2 * int((table >= 0).sum()) * weight[0].numel()


def synapses_reached(current, spikes, weight, synapse, at, out_shape=None):
    return 2 * at[0] * at[1]


pairs_of_sites._get_raw = True  # tensors, not their shapes
KNOWN = {
    **dict.fromkeys(GATHERED, weighted_rows),
    torch.ops.neuromix.sparse_conv: pairs_of_sites,
    torch.ops.neuromix.spread_spikes: synapses_reached,
}


def their_flops(run):
    """FLOPs of a run, and of each op in it."""
    counter = FlopCounterMode(display=False, custom_mapping=KNOWN)
    with torch.no_grad(), counter:
        run()
    return counter.get_total_flops()


def agree(net, *inputs):
    """Both counts of all samples together: theirs is twice ours."""
    net.eval()
    ours = profile(net, inputs, batch_size=1)
    assert not ours.not_counted
    assert ours.macs_dense > 0
    assert their_flops(lambda: net(*inputs)) == 2 * ours.macs_dense


CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolutions(data):
    """Any number of axes, stride, padding, dilation and groups, forward and transposed."""
    number = st.integers
    axes = data.draw(st.sampled_from([1, 2, 3]))
    transposed = data.draw(st.booleans())
    groups = data.draw(number(1, 3))
    kernel = tuple(data.draw(number(1, 3)) for _ in range(axes))
    stride = tuple(data.draw(number(1, 3)) for _ in range(axes))
    dilation = data.draw(number(1, 2))
    net = CONVOLUTIONS[axes][transposed](
        groups * data.draw(number(1, 3)),
        groups * data.draw(number(1, 3)),
        kernel,
        stride=stride,
        padding=data.draw(number(0, 2)),
        dilation=dilation,
        groups=groups,
        bias=data.draw(st.booleans()),
    )
    sides = tuple(data.draw(number(5, 9)) for _ in range(axes))
    agree(net, torch.randn(data.draw(number(1, 3)), net.in_channels, *sides))


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect", "replicate"])
def test_paddings(padding_mode):
    agree(nn.Conv2d(3, 4, 3, padding="same", padding_mode=padding_mode), torch.randn(2, 3, 6, 5))


@given(st.lists(st.integers(1, 4), max_size=3), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_linear_with_any_leading_axes(leading, inputs, outputs, bias):
    agree(nn.Linear(inputs, outputs, bias=bias), torch.randn(*leading, 1, inputs))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (torch.matmul, [(2, 3, 4, 5), (2, 3, 5, 6)]),
        (torch.matmul, [(2, 3, 4, 5), (5, 6)]),
        (torch.bmm, [(3, 4, 5), (3, 5, 6)]),
        (torch.addmm, [(4, 6), (4, 5), (5, 6)]),
        (torch.baddbmm, [(3, 4, 6), (3, 4, 5), (3, 5, 6)]),
        (lambda a, b: torch.einsum("bhik,bhjk->bhij", a, b), [(2, 3, 4, 5), (2, 3, 6, 5)]),
        (lambda a, b, c: torch.einsum("bi,bij,bj->b", a, b, c), [(2, 3), (2, 3, 4), (2, 4)]),
        (lambda a, b: torch.tensordot(a, b, dims=2), [(2, 3, 4), (3, 4, 5)]),
    ],
)
def test_products_of_activations(function, shapes):
    agree(Function(function), *(torch.randn(shape) for shape in shapes))


@pytest.mark.parametrize(("queries", "keys"), [((2, 3, 5, 8), (2, 3, 7, 8)), ((1, 1, 4, 2), (1, 1, 4, 2))])
def test_attention(queries, keys):
    """Theirs does not know the fused form for CPUs; the products of the unfused one are the same."""
    q, k, v = torch.randn(queries), torch.randn(keys), torch.randn(keys)
    fused = profile(Function(F.scaled_dot_product_attention), (q, k, v), batch_size=1)
    with sdpa_kernel(SDPBackend.MATH):
        agree(Function(F.scaled_dot_product_attention), q, k, v)
        unfused = profile(Function(F.scaled_dot_product_attention), (q, k, v), batch_size=1)
    assert fused.macs_dense == unfused.macs_dense


def test_attention_layer():
    net, x_BLD = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(2, 5, 8)
    torch.backends.mha.set_fastpath_enabled(False)  # one op again; ours leaves it by itself
    try:
        with sdpa_kernel(SDPBackend.MATH):
            theirs = their_flops(lambda: net(x_BLD))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert theirs == 2 * 2 * profile(net, x_BLD).macs_dense


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(layer):
    """An LSTM may be one op, which theirs does not know."""
    net, x_BLD = layer(8, 6, num_layers=2, batch_first=True, bidirectional=True), torch.randn(2, 5, 8)
    with torch.backends.mkldnn.flags(enabled=False):
        agree(net, x_BLD)
        in_parts = profile(net, x_BLD)
    in_one = profile(net, x_BLD)
    assert in_one.macs_dense == in_parts.macs_dense
    assert not in_one.not_counted


def test_what_neither_knows_is_named_by_ours():
    net, inputs = nn.Bilinear(3, 4, 5), (torch.randn(7, 3), torch.randn(7, 4))
    assert profile(net, inputs).not_counted == {"aten._trilinear": 1}
    assert their_flops(lambda: net(*inputs)) == 0


def test_a_net_of_all_kinds():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=8),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.Linear(16, 5),
    )
    agree(net, torch.randn(2, 3, 9, 9))


@pytest.mark.parametrize("name", sorted(own_entries("model")))
def test_every_registered_model(name, monkeypatch):
    # Theirs knows no Fourier transforms and no fused scans, and counts what is made of weights alone.
    monkeypatch.setattr(FourierTransform, "macs", 0)
    monkeypatch.setattr(Scan, "macs", 0)
    monkeypatch.setattr(Lineage, "of_weights_alone", lambda *_: False)
    entry = registry.entries("model")[name]
    torch.manual_seed(0)
    net = entry.build(entry.config.from_dict(entry.tiny)).eval()
    batch = net.example(2, torch.Generator().manual_seed(0))
    with sdpa_kernel(SDPBackend.MATH):
        assert their_flops(lambda: call(net, batch)) == 2 * 2 * profile(net, batch).macs_dense
