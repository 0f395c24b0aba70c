"""QSD-Transformer: a Meta-SpikeFormer with other fields, its weights of few bits, and what it weighs when packed.

Shapes: B batch, C channels, H W image.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError
from neuromix.layers.lsq import LSQLayer
from neuromix.layers.residual import Scale
from neuromix.neurons import IELIF, Neuron
from tests.runtime.lowered import lively, tiny

NAME = "qsd_transformer"


def make(**values):
    torch.manual_seed(0)
    return neuromix.create_model(NAME, **tiny(NAME, **values))


def test_every_convolution_and_linear_layer_is_quantised():
    net = make()
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert layers and all(isinstance(layer, LSQLayer) and layer.bits == 4 for layer in layers)
    assert net.stages[0].downsample.stem.conv in layers and net.head.classify in layers
    assert not any(isinstance(m, LSQLayer) for m in make(weight_bits=None).modules())


def test_it_is_the_float_net_with_other_fields():
    """Without quantiser, with the float net's neurons, it is Meta-SpikeFormer weight for weight."""
    same = {"weight_bits": None, "layer_scale": None, "neuron": "lif", "mixer": ("sdsa", {"heads": 2})}
    plain = neuromix.create_model("meta_spikeformer", **tiny("meta_spikeformer", neuron="lif"))
    ours = make(**same)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    ours.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(ours.eval()(image), plain.eval()(image))


def test_neurons_are_integer_and_those_of_the_attention_count_in_halves():
    net = make()
    neurons = {path: m for path, m in net.named_modules() if isinstance(m, Neuron)}
    assert all(isinstance(neuron, IELIF) and neuron.levels == 4 for neuron in neurons.values())
    of_attention = {path for path, neuron in neurons.items() if neuron.unit == 0.5}
    assert of_attention == {path for path in neurons if path.endswith("attention.neuron")}
    scales = [path for path, m in net.named_modules() if isinstance(m, Scale)]
    assert len(scales) == 4 and all(path.startswith(("stages.3.", "stages.4.")) for path in scales)


def test_steps_learn_more_slowly(tmp_path):
    net = make()
    assert net.parameter_rules() == {"*.alpha": {"lr_scale": 0.1}}
    assert sum(name.endswith(".alpha") for name, _ in net.named_parameters()) == sum(
        isinstance(m, LSQLayer) for m in net.modules()
    )


def test_unused_quantisers_of_the_release():
    """They are counted, do not learn, and go when a file of ours does not want them."""
    with_stubs, without = make(activation_stubs=True), make()
    extra = with_stubs.num_parameters(trainable_only=False) - without.num_parameters(trainable_only=False)
    inputs = [
        m.in_channels if isinstance(m, nn.Conv2d) else m.in_features
        for m in without.modules()
        if isinstance(m, LSQLayer)
    ]
    assert extra == 2 * sum(inputs)
    assert with_stubs.num_parameters() == without.num_parameters()
    layout = with_stubs.layouts(with_stubs.config)["authors"]
    theirs = layout.to_theirs(with_stubs.state_dict())
    assert {"head.act.alpha", "head.act.zero_point", "head.alpha"} <= theirs.keys()
    theirs |= {"head.init_state": torch.ones(1), "head.act.signed": torch.zeros(1)}
    kept = without.layouts(without.config)["authors"].to_ours(theirs)
    assert kept.keys() == without.state_dict().keys()


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_wrong_bits_are_refused(bits):
    with pytest.raises(ConfigError, match=f"weight_bits must be 2 to 8 or null, got {bits}"):
        make(weight_bits=bits)


@pytest.fixture(scope="module")
def net_15m():
    torch.manual_seed(0)
    return neuromix.create_model("qsd_transformer_15m").eval()


@pytest.mark.slow
def test_packed_15m_is_equal_to_the_bit_in_float64(net_15m):
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    net = net_15m.double()
    with torch.no_grad():
        assert torch.equal(apply_edit(net, "pack")(image), net(image))
    net_15m.float()


@pytest.mark.slow
def test_packed_15m_weighs_at_most_8_2_megabytes(net_15m, tmp_path):
    """With its batch-norms folded; their running statistics alone would be 0.34 MB."""
    packed = apply_edit(net_15m, ("fuse", {"factored": True}))
    neuromix.save_checkpoint(packed, tmp_path / "net.safetensors")
    size = (tmp_path / "net.safetensors").stat().st_size
    print(f"{size / 1e6:.2f} MB")
    assert size <= 8.2e6
    again = neuromix.load_checkpoint(tmp_path / "net.safetensors").double()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(again(image), packed.double()(image))
        torch.testing.assert_close(again(image), net_15m.double()(image), rtol=1e-5, atol=1e-7)


def test_folded_net_gives_the_same_answers():
    net = lively(NAME, (3, 8, 8), **tiny(NAME)).double()
    image = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for factored in (True, False):
        fused = apply_edit(net, ("fuse", {"factored": factored}))
        assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
        with torch.no_grad():
            torch.testing.assert_close(fused(image), net(image), rtol=1e-9, atol=1e-12)
