"""Spikes of another height than one are spikes: the next weights take the height in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuromix.measure import profile
from neuromix.neurons import IF, LIF
from neuromix.neurons.integer import IELIF


class Net(nn.Module):
    """A neuron, what is done to its spikes, and a layer that they enter. The first axis counts as that of samples."""

    def __init__(self, neuron: nn.Module, between: nn.Module | None = None) -> None:
        super().__init__()
        self.neuron, self.between = neuron, between or nn.Identity()
        self.layer = nn.Linear(6, 5, bias=False)

    def forward(self, x):
        return self.layer(self.between(self.neuron(x)))


def given(dtype=torch.float32):
    return 2 * torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


HIGH = {
    "threshold": lambda: LIF(v_threshold=0.3, height="threshold"),
    "learnt threshold": lambda: LIF(v_threshold=0.37, height="threshold", learnable=("v_threshold",)),
    "scaled": lambda: IF(v_threshold=0.3, v_reset=None, height="threshold", height_scale=20.0),
    "number": lambda: LIF(height=0.7),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", HIGH.values(), ids=HIGH.keys())
def test_binary_spikes_of_any_height_make_additions(make, dtype):
    net, x = Net(make()).to(dtype), given(dtype)
    with torch.no_grad():
        sent = int(net.neuron(x).count_nonzero())
    assert 0 < sent < x.numel()
    seen = profile(net, x)
    assert list(seen.operations.values()) == [sent * 5 / 3] and set(seen.operations) <= {
        "ac16",
        "ac32",
        "ac64",
    }
    assert seen.layers[0].input == "spike"


def test_quarters_count_by_value():
    net, x = Net(IELIF(4)), given()
    with torch.no_grad():
        sent = int((4 * net.neuron(x)).sum())
    assert profile(net, x).operations == {"ac32": sent * 5 / 3}


class Together(nn.Module):
    def forward(self, x):
        return torch.cat((x[:1].clone() + x[:1], x[1:].flip(0)))


def test_sums_and_moves_keep_the_height():
    net, x = Net(LIF(v_threshold=0.3, height="threshold"), Together()), given()
    with torch.no_grad():
        sent = round(float((Together()(net.neuron(x)) / 0.3).sum()))
    assert profile(net, x).operations == {"ac32": sent * 5 / 3}


class Waves(nn.Module):
    def forward(self, x):
        return x.sin()


class Shifted(nn.Module):
    def forward(self, x):
        x += 0.1
        return x


@pytest.mark.parametrize("between", [Waves(), Shifted()])
def test_what_else_is_made_of_them_is_real(between):
    net, x = Net(LIF(v_threshold=0.3, height="threshold"), between), given()
    assert profile(net, x).operations == {"mac32": x.numel() * 5 / 3}


def test_a_height_for_each_channel_is_real():
    neuron = LIF(v_threshold=0.3, height="threshold", learnable=("v_threshold",), channels=4)
    with torch.no_grad():
        neuron.v_threshold.copy_(torch.tensor([0.2, 0.3, 0.5, 0.7]))
    assert profile(Net(neuron), given()).operations.keys() == {"mac32"}


def test_neurobench_takes_them_for_real_numbers():
    seen = profile(Net(LIF(v_threshold=0.3, height="threshold")), given())
    assert seen.effective_acs == 0 < seen.effective_macs
