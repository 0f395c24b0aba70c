"""Numbers that are read and written, against the formulas of docs/measuring.md.

Shapes: T spike time, B batch, C channels; I inputs and O outputs of a linear layer.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuromix.core.time import Repeat, fold
from neuromix.measure import CountingRule, energy_models, profile
from neuromix.neurons import ILIF, LIF, CubaLIF


def moved(seen):
    """Traffic without its word length."""
    return {name.removesuffix("32"): number for name, number in seen.traffic.items()}


@settings(max_examples=40, deadline=None)
@given(i=st.integers(1, 9), o=st.integers(1, 9), b=st.integers(1, 4), bias=st.booleans())
def test_a_dense_layer_sums_in_registers(i, o, b, bias):
    seen = profile(nn.Linear(i, o, bias=bias), 0.5 + torch.rand(b, i))
    assert moved(seen) == {
        **dict.fromkeys(("weight_read", "input_read", "register_read", "register_write"), i * o),
        "output_write": o,
        "weight_load": i * o,
        "input_load": i,
        "output_store": o,
    }


@settings(max_examples=40, deadline=None)
@given(i=st.integers(1, 9), o=st.integers(1, 9), b=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_spiking_layer_sums_in_memory(i, o, b, seed):
    x_BI = (torch.rand(b, i, generator=torch.Generator().manual_seed(seed)) < 0.5).float()
    seen, spikes = profile(nn.Linear(i, o), x_BI), float(x_BI.sum()) / b
    expected = {
        **dict.fromkeys(("weight_read", "sum_read", "sum_write"), spikes * o),
        "input_read": spikes,
        "weight_load": i * o,
        "input_load": spikes,
        "output_store": o,
    }
    assert moved(seen) == pytest.approx({kind: number for kind, number in expected.items() if number})


class Spiking(nn.Module):
    """Neurons on the input, then a layer and its neurons."""

    def __init__(self, i, o, neuron=LIF):
        super().__init__()
        self.first, self.linear, self.second = LIF(v_threshold=0.3), nn.Linear(i, o), neuron(v_threshold=0.2)

    def forward(self, x_TBI):
        self.sent = self.first(x_TBI)
        self.answered = self.second(fold(self.linear, self.sent))
        return self.answered


@settings(max_examples=20, deadline=None)
@given(t=st.integers(1, 4), b=st.integers(1, 3), i=st.integers(1, 6), o=st.integers(1, 6))
def test_the_formulas_of_lemaire(t, b, i, o):
    """A fully connected spiking layer: every spike reads and writes O potentials, and every step all of them."""
    net = Spiking(i, o)
    x = torch.rand(t, b, i)
    with torch.no_grad():
        net(x)
    spikes, answers = float(net.sent.sum()) / b, float(net.answered.sum()) / b
    seen = profile(net, x, batch_size=b)
    layer, neurons = seen.layers[0].traffic, seen.neurons[1].traffic
    assert layer.get("input_read32", 0) == pytest.approx(spikes)
    assert layer.get("weight_read32", 0) == pytest.approx(spikes * o)
    for access in ("read32", "write32"):
        potential = layer.get(f"sum_{access}", 0) + neurons[f"state_{access}"]
        assert potential == pytest.approx((spikes + t) * o)
    assert neurons.get("output_write32", 0) == pytest.approx(answers)


@pytest.mark.parametrize(("neuron", "states"), [(LIF, 1), (CubaLIF, 2), (ILIF, 0)])
def test_neurons_move_their_state_at_each_step(neuron, states):
    net = neuron() if neuron is ILIF else neuron(v_threshold=0.5)
    seen = profile(net, torch.rand(3, 2, 5), batch_size=2)
    (row,) = seen.neurons
    assert row.elements == 15
    for kind in ("state_read", "state_write", "state_load", "state_store"):
        assert row.traffic.get(f"{kind}32", 0) == 15 * states
    assert row.traffic.get("output_store32", 0) == row.firing_rate * 15
    assert seen.traffic == row.traffic
    assert seen.energy == row.energy


def test_convolutions():
    conv = nn.Conv2d(2, 6, 3, padding=1, stride=2, groups=2)
    seen = profile(conv, 0.5 + torch.rand(3, 2, 8, 8))
    macs, outputs = 9 * 6 * 16, 6 * 16
    assert moved(seen) == {
        **dict.fromkeys(("weight_read", "input_read", "register_read", "register_write"), macs),
        "output_write": outputs,
        "weight_load": 54,
        "input_load": 128,
        "output_store": outputs,
    }
    up = profile(nn.ConvTranspose2d(2, 3, 2, stride=2), 0.5 + torch.rand(1, 2, 4, 4))
    assert up.traffic["output_write32"] == 3 * 8 * 8


class Meet(nn.Module):
    def forward(self, a, b):
        return a @ b


def test_two_activations_that_meet():
    real, other = 0.5 + torch.rand(1, 3, 4), 0.5 + torch.rand(1, 4, 5)
    dense = moved(profile(Meet(), (real, other)))
    assert dense["input_read"] == 2 * 60 and dense["input_load"] == 12 + 20
    assert "weight_read" not in dense and "weight_load" not in dense
    a = torch.tensor([[[1.0, 0], [1, 1]]])
    b = torch.tensor([[[1.0, 0, 1], [0, 0, 1]]])
    # k = 0: two spikes of a meet two of b; k = 1: one meets one. Either sends; the other is read at each addition.
    pairs = profile(Meet(), (a, b))
    assert pairs.operations == {"ac32": 5}
    assert moved(pairs)["input_read"] == 3 + 5 and moved(pairs)["sum_write"] == 5
    assert moved(pairs)["input_load"] == 3 + b.numel()
    # By the rates of both, both send.
    rates = profile(Meet(), (a, b), "paper")
    assert moved(rates)["input_load"] == 3 + 3


def test_attention():
    q = 0.5 + torch.rand(1, 1, 3, 4)
    fused = profile(Op(lambda x: F.scaled_dot_product_attention(x, x, x)), q)
    assert moved(fused)["output_write"] == 3 * 3 + 3 * 4


class Op(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_weights_are_loaded_once_however_often_they_are_used():
    shared = nn.Linear(4, 4, bias=False)

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = shared

        def forward(self, x):
            for _ in range(3):
                x = self.layer(x)
            return x

    seen = moved(profile(Loop(), 0.5 + torch.rand(5, 4)))
    assert seen["weight_read"] == 3 * 16 and seen["weight_load"] == 16
    assert seen["input_load"] == 3 * 4
    # A weight that is expanded over the batch is one weight.
    batched = Op(lambda x: torch.bmm(x[:, None], shared.weight.expand(len(x), 4, 4)))
    batched.weight = shared.weight
    assert moved(profile(batched, 0.5 + torch.rand(5, 4)))["weight_load"] == 16


class Static(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.neuron = Repeat(4, nn.Linear(3, 5)), LIF()

    def forward(self, x_BC):
        return self.neuron(self.stem(x_BC[None]))


def test_a_stem_that_is_charged_at_every_step_moves_at_every_step():
    x = 0.5 + torch.rand(2, 3)
    once, every_step = (
        profile(Static(), x, CountingRule(static_stem=rule)).layers[0].traffic
        for rule in ("once", "every_step")
    )
    assert every_step == {name: number * (1 if "weight_load" in name else 4) for name, number in once.items()}


def test_word_length():
    net, x = Spiking(3, 2), torch.rand(2, 1, 3)
    assert all(name.endswith("8") for name in profile(net, x, CountingRule(bits=8), batch_size=1).traffic)
    as_they_are = profile(net.double(), x.double(), CountingRule(bits=None), batch_size=1)
    assert all(name.endswith("64") for name in as_they_are.traffic)


def test_energy_of_the_memory_tables():
    """45nm_sram is arithmetic and accesses, 45nm_dram arithmetic and transfers, nothing else."""
    net = Spiking(6, 5)
    seen = profile(net, torch.rand(3, 2, 6), batch_size=2)
    for name in ("45nm_sram", "45nm_dram"):
        prices = energy_models()[name].picojoules
        counts = {**seen.operations, **seen.traffic}
        by_hand = sum(prices.get(kind, 0) * number for kind, number in counts.items())
        assert seen.energy[name] == pytest.approx(1e-9 * by_hand)
        assert set(seen.energy_models[name].left_out) == seen.traffic.keys() - prices.keys()
        rows = [*seen.layers, *seen.neurons]
        assert seen.energy[name] == pytest.approx(sum(row.energy[name] for row in rows))
        assert seen.energy[name] > seen.energy["45nm"]
    for kind, number in seen.traffic.items():
        assert number == pytest.approx(sum(row.traffic.get(kind, 0) for row in rows))
