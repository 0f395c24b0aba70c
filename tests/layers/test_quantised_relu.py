"""The quantised activation, and the conversion of nets that have it to spiking ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import neuromix
from neuromix.core.checkpoint import create_model, rebuild
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError
from neuromix.core.model import call
from neuromix.layers.activation import make_activation
from neuromix.layers.quantised_relu import QuantisedReLU, quantised_relu
from neuromix.neurons.neuron import Neuron

TINY = {"blocks": (1, 1), "widths": (4, 8), "time_steps": 6, "num_classes": 3}


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 4), st.floats(0.05, 3), st.integers(0, 99))
def test_values_and_gradients_follow_the_formula(bits, batch, features, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    levels = 2**bits - 1
    x, up = 2 * torch.randn(2, batch, features, generator=generator, dtype=torch.float64)
    x.requires_grad_()
    s = torch.tensor([scale], dtype=torch.float64, requires_grad=True)
    y = quantised_relu(x, s, levels)
    y.backward(up)
    of_scale = torch.zeros((), dtype=torch.float64)
    for value, out, gradient, g in zip(
        x.detach().flatten(), y.detach().flatten(), x.grad.flatten(), up.flatten(), strict=True
    ):
        u = min(max(float(value) / scale, 0), levels)
        assert float(out) == pytest.approx(scale * round(u))
        inside = 0 < u < levels
        assert float(gradient) == (float(g) if inside else 0)
        of_scale += g * (round(u) - (u if inside else 0))
    torch.testing.assert_close(s.grad[0], of_scale / math.sqrt(batch * levels))
    with torch.no_grad():
        assert torch.equal(quantised_relu(x, s, levels), y)


def test_scale_stays_positive():
    activation = make_activation(("quantised_relu", {"bits": 3, "scale": 0.1}))
    nn.init.constant_(activation.scale, -1.0)
    activation.after_step()
    assert activation.levels == 7 and float(activation.scale.detach()) > 0


def test_in_a_net_the_samples_are_counted_not_the_one_time_step():
    net = create_model("quantised_resnet", **TINY).double().train()
    seen = []
    activation = net.stages[0][0].residual.norm.activation
    activation.register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    net(torch.randn(5, 3, 8, 8, dtype=torch.float64))
    assert seen == [(5, 4, 8, 8)]


def make_converted(**options):
    torch.manual_seed(0)
    net = create_model("quantised_resnet", **{**TINY, **options}).double().eval()
    for module in net.modules():
        if isinstance(module, QuantisedReLU):
            nn.init.uniform_(module.scale, 0.2, 0.6)
    return net, apply_edit(net, "ann_to_snn")


def test_neurons_fire_as_in_the_paper():
    """From half a threshold, spikes of the threshold's height, which is subtracted one step later."""
    net, spiking = make_converted()
    activation, neuron = net.stem[0].activate.activation, spiking.stem[0].activate.activation
    threshold = float(activation.scale.detach()) * activation.levels
    x_T = 0.6 * torch.randn(20, 2, 5, dtype=torch.float64)
    membrane, spike, expected = torch.full((2, 5), threshold / 2).double(), torch.zeros(2, 5).double(), []
    for x in x_T:
        membrane = membrane - spike + x
        spike = threshold * (membrane >= threshold).double()
        expected.append(spike)
    expected = torch.stack(expected)
    assert 0 < expected.count_nonzero() < expected.numel()
    torch.testing.assert_close(neuron(x_T).detach(), expected)


def test_one_step_of_a_constant_input_rounds_as_the_activation_does_over_time():
    """After L steps of a constant input in range a neuron has sent what the activation sends in one, L times."""
    activation = make_activation(("quantised_relu", {"bits": 2, "scale": 0.5})).double()
    x = torch.linspace(0.01, 1.49, 60, dtype=torch.float64)  # no ties between two levels
    neuron = make_converted()[1].stem[0].activate.activation
    nn.init.constant_(neuron.v_threshold, 0.5 * 3)
    sent = neuron(x.expand(3, 1, 60)).sum(0)[0] / 3
    torch.testing.assert_close(sent.detach(), activation(x).detach())


def test_conversion_keeps_the_weights_and_drops_the_last_activation():
    net, spiking = make_converted()
    assert net.stream_axis is None and spiking.stream_axis == 0
    assert any(isinstance(module, QuantisedReLU) for module in net.modules())  # the given one is as it was
    assert sum(isinstance(module, Neuron) for module in spiking.modules()) == 5
    assert spiking.num_parameters() == net.num_parameters() - 1
    batch = net.example(2)
    x = batch["image"].double()
    assert spiking.forward_steps(spiking.encode(x)).shape == (6, 2, 3)
    assert torch.equal(
        spiking.stages[0][0].residual.branch[0].conv.conv.weight,
        net.stages[0][0].residual.branch[0].conv.conv.weight,
    )


def test_converted_net_is_saved_and_rebuilt_with_other_steps(tmp_path):
    _, spiking = make_converted()
    spiking = spiking.float()
    neuromix.save_checkpoint(spiking, tmp_path / "net.safetensors")
    again = neuromix.load_checkpoint(tmp_path / "net.safetensors").eval()
    batch = spiking.example(2)
    with torch.no_grad():
        assert torch.equal(call(again, batch), call(spiking, batch))
        longer = rebuild(again, time_steps=9).eval()
        assert longer.forward_steps(longer.encode(batch["image"])).shape[0] == 9


def test_what_cannot_be_converted_is_refused():
    with pytest.raises(ConfigError, match="no quantised activation"):
        apply_edit(create_model("spiking_vgg_nano"), "ann_to_snn")
    with pytest.raises(ConfigError, match="no quantised activation"):
        apply_edit(
            create_model("quantised_resnet", **TINY, activation="relu", last_activation=False), "ann_to_snn"
        )
