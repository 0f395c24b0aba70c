"""Our figures against NeuroBench's own classes, on the same networks and inputs.

What differs by definition is tested as the difference that docs/measuring.md states.

Shapes: T spike time, B batch, C channels, H W feature map, I inputs, F features of a recurrent cell.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from neuromix.core import registry
from neuromix.measure import profile
from neuromix.neurons import Neuron

pytest.importorskip("neurobench", reason="compares with neurobench")

import snntorch as snn
from neurobench.benchmarks import Benchmark
from neurobench.metrics.static import ConnectionSparsity, Footprint, ParameterCount
from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
from neurobench.models import SNNTorchModel, TorchModel
from snntorch import utils

STATIC = [Footprint, ConnectionSparsity, ParameterCount]
WORKLOAD = [ActivationSparsity, SynapticOperations]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def theirs(model, x, batch_size=2):
    """What NeuroBench's harness measures over batches of x."""
    loader = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=batch_size)
    found = Benchmark(model, loader, [], [], [STATIC, WORKLOAD]).run(quiet=True)
    return found | found.pop("SynapticOperations")


def agree(model, net, x):
    """All metrics of NeuroBench are equal to ours on all samples at once. Returns our profile."""
    ours, found = (
        profile(net, x),
        theirs(model, x),
    )  # in this order: theirs leaves states in buffers of snnTorch
    assert ours.footprint == found["Footprint"]
    assert ours.parameters == found["ParameterCount"]
    assert as_theirs(ours.connection_sparsity) == found["ConnectionSparsity"]
    assert (ours.activation_sparsity or 0.0) == pytest.approx(found["ActivationSparsity"], abs=1e-12)
    assert ours.effective_macs == found["Effective_MACs"]
    assert ours.effective_acs == found["Effective_ACs"]
    assert ours.synaptic_operations_dense == found["Dense"] > 0
    return ours


def as_theirs(sparsity):
    """As NeuroBench gives it: divided in float32, to 4 digits."""
    return round(float(torch.tensor(sparsity)), 4)


def synaptic_operations(net, *inputs):
    """NeuroBench's count for one run."""
    model, metric = TorchModel(net), SynapticOperations()
    model.register_hooks()
    with torch.no_grad():
        net(*inputs)
    found = metric(model, None, (torch.empty(1),))
    model.cleanup_hooks()
    return found


def thinned(net, share=0.3):
    """The net with some of its weights and biases at zero."""
    for p in net.parameters():
        p.data[torch.rand(p.shape) < share] = 0
    return net


def test_a_dense_net():
    net = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Sigmoid(), nn.Linear(8, 3)
    )
    ours = agree(TorchModel(thinned(net)), net, torch.randn(6, 6).relu())
    assert 0 < ours.effective_macs < ours.synaptic_operations_dense == ours.macs_dense
    assert ours.connection_sparsity > 0.1


def test_a_convolutional_net():
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 5, stride=2, padding=2, groups=3, bias=False),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
        nn.Conv2d(6, 4, 1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    ours = agree(TorchModel(thinned(net)), net, torch.randn(6, 2, 8, 8))
    # Ours by the shapes has the borders in it, as papers count.
    assert ours.synaptic_operations_dense < ours.macs_dense
    assert ours.effective_acs == 0


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_convolution(data):
    number = st.integers
    axes, groups = data.draw(number(1, 3)), data.draw(number(1, 3))
    each = st.tuples(*[number(1, 3)] * axes)
    conv = CONVOLUTIONS[axes](
        groups * data.draw(number(1, 2)),
        groups * data.draw(number(1, 2)),
        data.draw(each),
        stride=data.draw(each),
        padding=data.draw(st.tuples(*[number(0, 3)] * axes)),
        dilation=data.draw(number(1, 2)),
        groups=groups,
        padding_mode=data.draw(st.sampled_from(["zeros", "replicate"])),
    )
    torch.manual_seed(data.draw(number(0, 99)))
    x = torch.randint(-1, data.draw(number(1, 3)), (2, conv.in_channels, *[6] * axes)).float()
    net = thinned(nn.Sequential(conv))
    found, ours = synaptic_operations(net, x), profile(net, x, batch_size=1)
    assert ours.synaptic_operations_dense == found["Dense"]
    assert (ours.effective_macs, ours.effective_acs) == (found["Effective_MACs"], found["Effective_ACs"])


class SnnTorch(nn.Module):
    """One step of a spiking net as snnTorch's users write it."""

    def __init__(self, hidden):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.first = hidden(init_hidden=True)
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(36, 5)
        self.last = snn.Leaky(beta=0.8, init_hidden=True, output=True)

    def forward(self, x_BCHW):
        spikes = self.pool(self.first(self.conv(x_BCHW)))
        return self.last(self.linear(spikes.flatten(1)))


class Steps(nn.Module):
    """All steps of it, [B, T, ...], as NeuroBench's wrapper runs them."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x_BTCHW):
        utils.reset(self.net)
        return torch.stack([self.net(x)[0] for x in x_BTCHW.unbind(1)])


@pytest.mark.parametrize(
    "hidden",
    [
        lambda **kw: snn.Leaky(beta=0.9, threshold=0.3, **kw),
        lambda **kw: snn.Synaptic(alpha=0.8, beta=0.9, threshold=0.3, **kw),
    ],
    ids=["leaky", "synaptic"],
)
@pytest.mark.parametrize("spikes", [False, True])
def test_a_net_of_snntorch(hidden, spikes):
    net = thinned(SnnTorch(hidden))
    x = torch.rand(4, 5, 2, 6, 6)
    x = (x < 0.3).float() if spikes else x
    ours = agree(SNNTorchModel(net), Steps(net), x)
    assert [row.path for row in ours.neurons] == ["net.first", "net.last"]
    assert 0 < ours.activation_sparsity == pytest.approx(1 - ours.firing_rate)
    assert ours.effective_acs > 0 and (ours.effective_macs == 0) == spikes
    assert not ours.not_counted


class FromRest(nn.Module):
    """A net of SpikingJelly in multi-step mode, [B, T, ...], that remembers nothing of the last batch."""

    def __init__(self, forget, *layers):
        super().__init__()
        self.forget, self.layers = forget, nn.Sequential(*layers)

    def forward(self, x_BTCHW):
        self.forget(self)
        return self.layers(x_BTCHW.transpose(0, 1))


@pytest.mark.parametrize("spikes", [False, True])
def test_a_net_of_spikingjelly(spikes):
    pytest.importorskip("spikingjelly", reason="compares nets of spikingjelly")
    from spikingjelly.activation_based import functional, layer, neuron

    net = FromRest(
        functional.reset_net,
        layer.Conv2d(2, 4, 3, padding=1, stride=2, step_mode="m"),
        neuron.LIFNode(v_threshold=0.2, step_mode="m"),
        layer.Conv2d(4, 6, 3, groups=2, bias=False, step_mode="m"),
        neuron.IFNode(v_threshold=0.2, step_mode="m"),
        layer.Flatten(step_mode="m"),
        layer.Linear(6, 5, step_mode="m"),
    )
    x = torch.rand(4, 3, 2, 6, 6)
    model = TorchModel(thinned(net))
    model.add_activation_module(neuron.BaseNode)
    ours = agree(model, net, (x < 0.5).float() if spikes else x)
    assert ours.effective_acs > 0 and (ours.effective_macs == 0) == spikes
    assert len(ours.neurons) == 2


@pytest.mark.parametrize("name", ["meta_spikeformer", "poolformer", "metaformer_baselines"])
def test_registered_models(name):
    """Of layers: what attention multiplies beside them is in ours alone."""
    entry = registry.entries("model")[name]
    net = entry.build(entry.config.from_dict(entry.tiny)).eval()
    x = torch.randn(net.example(4).tensor("image").shape)
    model = TorchModel(net)
    model.add_activation_module(Neuron)
    found, ours = theirs(model, x, batch_size=4), profile(net, x)
    assert ours.footprint == found["Footprint"]
    assert as_theirs(ours.connection_sparsity) == found["ConnectionSparsity"]
    assert (ours.activation_sparsity or 0.0) == pytest.approx(found["ActivationSparsity"], abs=1e-12)
    rows = [row for row in ours.layers if row.connection_sparsity is not None]
    assert sum(row.effective_macs for row in rows) == found["Effective_MACs"]
    assert sum(row.effective_acs for row in rows) == found["Effective_ACs"]
    assert sum(row.synaptic_operations_dense for row in rows) == found["Dense"]


def test_pruned_and_frozen_weights():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    net[2].bias.requires_grad_(False)
    model = TorchModel(net)
    ours = profile(net, torch.randn(1, 8))
    assert as_theirs(ours.connection_sparsity) == ConnectionSparsity()(model) == 0.4
    assert ours.footprint == Footprint()(model)
    # Ours are the trainable ones.
    assert ParameterCount()(model) - ours.parameters == 2


# What differs by definition.


def test_products_beside_layers_are_in_ours_alone():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(4, 12)
            self.up = nn.ConvTranspose1d(6, 3, 2)

        def forward(self, x_BLD):
            q, k, v = self.qkv(x_BLD).chunk(3, -1)
            return self.up(F.scaled_dot_product_attention(q, k, v))

    net, x = Attention(), torch.randn(2, 6, 4)
    found, ours = synaptic_operations(net, x), profile(net, x, batch_size=1)
    rows = {row.type: row.effective_macs for row in ours.layers}
    assert found["Effective_MACs"] == rows["Linear"] == 2 * 6 * 4 * 12
    assert rows["Attention"] == 2 * 2 * 6 * 6 * 4
    assert rows["ConvTranspose1d"] == 2 * 4 * 6 * 3 * 2
    assert (
        ours.connection_sparsity == 0.0
    )  # of the linear layer; the transposed one is none of NeuroBench's kinds


def test_what_counts_as_a_spike():
    """NeuroBench: -1, 0 and 1. Our additions: 0, 1 and small whole numbers, as integer neurons send them."""
    net = nn.Sequential(nn.Linear(4, 3))
    signs, levels = torch.tensor([[1.0, -1, 0, 1]]), torch.tensor([[1.0, 2, 0, 0]])
    assert synaptic_operations(net, signs)["Effective_ACs"] == 9
    ours = profile(net, signs)
    assert (ours.effective_macs, ours.effective_acs, ours.operations) == (0, 9, {"mac32": 12})
    assert synaptic_operations(net, levels)["Effective_MACs"] == 6
    ours = profile(net, levels)
    assert (ours.effective_macs, ours.effective_acs, ours.operations) == (6, 0, {"ac32": 9})


def test_effective_operations_skip_zeros_that_ours_charge():
    """Effective: neither factor is zero. Ours charge all of a real product, and a spike on a zero weight."""
    net = nn.Sequential(nn.Linear(4, 3))
    net[0].weight.data[0] = 0
    for x in (torch.tensor([[0.5, 0, 0, 0.5]]), torch.tensor([[1.0, 0, 0, 1.0]])):
        ours, found = profile(net, x), synaptic_operations(net, x)
        assert ours.effective_macs + ours.effective_acs == 2 * 2
        assert (found["Effective_MACs"], found["Effective_ACs"]) == (ours.effective_macs, ours.effective_acs)
    assert ours.operations == {"ac32": 2 * 3}


class Cell(nn.Module):
    """A recurrent cell in a net, as NeuroBench looks at the children of one."""

    def __init__(self, kind, inputs, features):
        super().__init__()
        self.cell = kind(inputs, features)

    def forward(self, x_BI, state):
        return self.cell(x_BI, state)


CELLS = {
    # element-wise products of a unit that NeuroBench adds: c = f*c + i*g, h = o*c; n = r*h, h = (1-z)*n + z*h
    nn.LSTMCell: 3,
    nn.GRUCell: 3,
    nn.RNNCell: 0,
}


@pytest.mark.parametrize("kind", CELLS)
@settings(max_examples=20, deadline=None)
@given(inputs=st.integers(2, 6), features=st.integers(2, 6), samples=st.integers(1, 3))
def test_recurrent_cells(kind, inputs, features, samples):
    net = Cell(kind, inputs, features)
    x, h, c = torch.randn(samples, inputs), torch.randn(samples, features), torch.randn(samples, features)
    state = (h, c) if kind is nn.LSTMCell else h
    found, ours = synaptic_operations(net, x, state), profile(net, (x, state), batch_size=1)
    beside = CELLS[kind] * features * samples
    assert found["Effective_MACs"] == ours.effective_macs + beside
    assert found["Dense"] == ours.synaptic_operations_dense + beside


def test_a_recurrent_cell_with_spikes():
    """NeuroBench takes the states of a cell for what its input is; ours look at each product."""
    net, x, h = Cell(nn.RNNCell, 4, 5), torch.tensor([[1.0, 0, 1, 0]]), torch.randn(1, 5)
    found, ours = synaptic_operations(net, x, h), profile(net, (x, h))
    assert found["Effective_ACs"] == ours.effective_acs + ours.effective_macs == 2 * 5 + 5 * 5
    assert (ours.effective_acs, ours.effective_macs) == (10, 25)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind):
    """NeuroBench has their weights, not their operations."""

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = kind(4, 5, num_layers=2, bidirectional=True)

        def forward(self, x_LBI):
            return self.layer(x_LBI)[0]

    net, x = thinned(Recurrent()), torch.randn(3, 2, 4)
    with pytest.raises(TypeError):
        synaptic_operations(net, x)
    ours = profile(net, x, batch_size=2)
    assert as_theirs(ours.connection_sparsity) == ConnectionSparsity()(TorchModel(net)) > 0.1
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    assert ours.macs_dense == 3 * 2 * gates * 5 * ((4 + 5) + (10 + 5))
    assert not ours.not_counted


def test_no_activation():
    net = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    assert profile(net, torch.randn(1, 2)).activation_sparsity is None
    assert theirs(TorchModel(net), torch.randn(2, 2))["ActivationSparsity"] == 0.0
