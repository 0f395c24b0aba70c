"""Random weights that fire at a given rate."""

from __future__ import annotations

import torch

from neuromix.bench.rates import firing_model, thresholds, with_thresholds
from neuromix.core.checkpoint import create_model
from neuromix.neurons import LIF


def test_every_layer_fires_at_the_rate() -> None:
    rates: list[float] = []
    model = firing_model("meta_spikeformer_nano", rate=0.2, side=16)
    for neuron in model.modules():
        if isinstance(neuron, LIF):
            neuron.register_forward_hook(lambda _, __, spikes_T: rates.append(float(spikes_T.mean())))
    torch.manual_seed(
        0
    )  # the image on which the rates were set is the first of the two drawn after the weights
    create_model("meta_spikeformer_nano")
    with torch.no_grad():
        model(torch.randn(2, 1, 16, 16)[:1])
    assert len(rates) > 10
    # A layer of a few hundred neurons and steps cannot meet it exactly.
    assert all(abs(rate - 0.2) < 0.05 for rate in rates)


def test_thresholds_make_the_same_model() -> None:
    model = firing_model("meta_spikeformer_nano", rate=0.2, side=16)
    other = create_model("meta_spikeformer_nano").eval()
    other.load_state_dict(model.state_dict())
    with_thresholds(other, thresholds(model))
    image_BCHW = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(other(image_BCHW), model(image_BCHW), rtol=0, atol=0)
