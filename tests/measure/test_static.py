"""Bytes of parameters and states, and zeros among weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.state import state_bytes
from neuromix.core.stream import stream
from neuromix.measure import profile
from neuromix.measure.static import connection_sparsity, footprint


def test_footprint():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False).double())
    assert footprint(net) == 4 * (9 + 6 + 6) + 8 + 8 * 9
    assert footprint(net[1]) == 4 * 12 + 8
    assert footprint(net, recurse=False) == 0
    net[2].weight = net[0].weight
    assert footprint(net) == 4 * (9 + 6 + 6) + 8


def test_connection_sparsity():
    conv, linear, norm = nn.Conv1d(2, 2, 3), nn.Linear(4, 4), nn.BatchNorm1d(4)
    conv.weight.data[0], linear.bias.data[:] = 0, 0
    assert connection_sparsity([conv, linear, norm]) == 6 / (12 + 16)
    assert connection_sparsity([norm, nn.ConvTranspose1d(2, 2, 3)]) is None
    cell = nn.LSTMCell(2, 3)
    cell.bias_hh.data[:] = 0
    assert connection_sparsity([cell]) == 12 / (24 + 36 + 24)


def test_each_layer_has_its_own():
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    net[0].weight.data[:2] = 0
    seen = profile(net, torch.rand(1, 4))
    assert [row.footprint for row in seen.layers] == [80, 40]
    assert [row.connection_sparsity for row in seen.layers] == [0.5, 0.0]
    assert seen.connection_sparsity == pytest.approx(8 / 24)


@pytest.mark.parametrize("frames", [False, True])
def test_state_of_a_session(frames):
    net = neuromix.create_model("meta_spikeformer_nano", time_steps=3).eval()
    image = torch.rand(2, 1, 8, 8)
    seen = profile(net, image.expand(3, *image.shape) if frames else image)
    _, state = stream(net).step(image[:1])
    assert seen.state_bytes == state_bytes(state) > 0
    # A float a neuron: the elements of a profile are those of all three steps.
    assert seen.state_bytes == 4 * sum(row.elements for row in seen.neurons) / 3


def test_no_session():
    net = neuromix.create_model("poolformer_nano")
    assert profile(net, net.example(1)).state_bytes is None
    assert profile(nn.LSTM(4, 4), torch.rand(2, 1, 4)).state_bytes is None
