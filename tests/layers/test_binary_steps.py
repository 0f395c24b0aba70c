"""The edit "binary_steps": nets of integer neurons as nets of binary spikes.

Shapes: T spike time, D levels, B batch, C channels, H W image.
"""

from __future__ import annotations

import pytest
import torch

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.layers.binary_steps import BinarySteps, binary_neuron
from neuromix.neurons import IELIF, ILIF, Neuron
from tests.runtime.lowered import images, lively, tiny

INTEGERS = ("i_lif", {"levels": 3})
NETS = {
    "vgg": ("spiking_vgg", (3, 8, 8), {"activation": INTEGERS, "in_channels": 3}),
    "preact": ("spiking_preact_resnet", (3, 8, 8), {"activation": INTEGERS}),
    "qsd": ("qsd_transformer", (3, 8, 8), {}),
    "qsd, other levels": (
        "qsd_transformer",
        (3, 8, 8),
        {"neuron.levels": 2, "mixer.attention_neuron": ["ie_lif", {"levels": 2}], "mixer.order": "qk"},
    ),
}


@pytest.mark.parametrize("name, shape, overrides", NETS.values(), ids=NETS.keys())
def test_the_same_answers_from_binary_spikes(name, shape, overrides, tmp_path):
    model = lively(name, shape, **tiny(name, **overrides)).double()
    driven = apply_edit(model, "binary_steps")
    x_BCHW, sent = images(shape).double(), []
    for module in driven.modules():
        if isinstance(module, Neuron):
            assert module.levels == 1
            module.register_forward_hook(lambda _, __, spikes: sent.append(spikes))
    with torch.no_grad():
        expected_BK = model(x_BCHW)
        torch.testing.assert_close(driven(x_BCHW), expected_BK, rtol=1e-9, atol=1e-12)
    levels = next(m.levels for m in model.modules() if isinstance(m, Neuron))
    assert {len(spikes) for spikes in sent} == {model.config.time_steps * levels}
    assert set(torch.cat([spikes.unique() for spikes in sent]).tolist()) == {0.0, 1.0}
    assert driven.stream_axis is None and model.stream_axis == 0
    neuromix.save_checkpoint(driven, tmp_path / "net.safetensors")
    again = neuromix.load_checkpoint(tmp_path / "net.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again.double()(x_BCHW), expected_BK, rtol=1e-9, atol=1e-12)


def test_a_frame_a_step():
    model = lively(
        "spiking_vgg", (3, 8, 8), **tiny("spiking_vgg", activation=INTEGERS, in_channels=3)
    ).double()
    frames = torch.randn(model.config.time_steps, 2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(apply_edit(model, "binary_steps")(frames), model(frames))


def test_spikes_are_those_of_an_integrating_neuron():
    """Threshold 1, soft reset, half a threshold before: driven once with D times the input, it fires n times."""
    x = torch.linspace(-0.5, 1.5, 81, dtype=torch.float64)
    spikes_TD = BinarySteps(IELIF(levels=4))(x.expand(4, -1).unsqueeze(1))
    v, fired = 0.5 + 4 * x, torch.zeros_like(x)
    for _ in range(4):
        fires = v >= 1
        v, fired = v - fires.double(), fired + fires
    assert torch.equal(spikes_TD.sum(0)[0], fired)


def test_height_of_the_spikes():
    x_T = torch.rand(1, 2, 7) * 3
    for neuron in (IELIF(levels=4), IELIF(levels=3, height=2.0), ILIF(levels=5)):
        spikes = binary_neuron(neuron)(x_T.repeat_interleave(neuron.levels, 0))
        torch.testing.assert_close(spikes.mean(0, keepdim=True), neuron(x_T))


def test_what_has_no_binary_form_is_told():
    with pytest.raises(ConfigError, match=r"needs integer neurons of one number of levels; .*LIF\(1\)"):
        apply_edit(neuromix.create_model("meta_spikeformer_nano"), "binary_steps")
    with pytest.raises(ConfigError, match=r"those of poolformer_nano: none"):
        apply_edit(neuromix.create_model("poolformer_nano"), "binary_steps")
    mixed = neuromix.create_model("qsd_transformer_nano", **{"neuron.levels": 2})
    with pytest.raises(ConfigError, match=r"IELIF\(2\), IELIF\(4\)"):
        apply_edit(mixed, "binary_steps")
    gates = neuromix.create_model("qsd_transformer_nano", **{"mixer.form": 1})
    with pytest.raises(ConfigError, match="attention of form 1 opens gates"):
        apply_edit(gates, "binary_steps")
    with pytest.raises(ShapeError, match="4 sub-steps make a time step, got 3"):
        BinarySteps(IELIF())(torch.zeros(3, 1, 1))
