"""Spikes are those that the neurons sent."""

from __future__ import annotations

import torch

import neuromix
from neuromix.measure.spikes import last_of_each_stage, recorded_spikes, spike_trains, stage
from neuromix.neurons import LIF


def test_spikes_of_each_layer_in_order() -> None:
    net = torch.nn.Sequential(LIF(v_threshold=0.1), torch.nn.ReLU(), LIF(v_threshold=0.2))
    x_TBC = torch.rand(4, 2, 5)
    with torch.no_grad(), recorded_spikes(net) as spikes:
        last_TBC = net(x_TBC)
    assert list(spikes) == ["0", "2"]
    assert torch.equal(spikes["2"], last_TBC)
    net(x_TBC)  # the hooks are gone
    assert torch.equal(spikes["2"], last_TBC)


def test_trains_of_one_sample() -> None:
    spikes_TBC = (torch.rand(3, 2, 10, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    (train,) = spike_trains({"a": spikes_TBC}, sample=1)
    assert train.neurons == 10
    assert train.spikes == spikes_TBC[:, 1].int().tolist()


def test_trains_are_cut_to_a_number_of_neurons() -> None:
    spikes_TBCHW = torch.ones(2, 1, 8, 4, 4)
    (train,) = spike_trains({"a": spikes_TBCHW}, most=16)
    assert train.neurons == 128
    assert [len(row) for row in train.spikes] == [16, 16]


def test_a_layer_a_stage() -> None:
    net = neuromix.create_model("meta_spikeformer_nano").eval()
    with torch.no_grad(), recorded_spikes(net) as spikes:
        net(torch.rand(1, 1, 8, 8))
    chosen = last_of_each_stage(list(spikes))
    assert [stage(path) for path in chosen] == ["stage 0", "stage 1", "stage 2", "stage 3", "stage 4", "head"]
    assert chosen[-1] == "head.neuron"
