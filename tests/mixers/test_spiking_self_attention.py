"""Attention on spikes: the order of its products, its own neuron, and what the plain projections change.

Shapes: T spike time, B batch, C channels, h heads, N tokens, K channels of a head, H W map.
"""

from __future__ import annotations

import pytest
import torch

from neuromix.core.config import Spec
from neuromix.core.errors import ConfigError
from neuromix.layers.conv import ConvBN
from neuromix.mixers.mixer import make_mixer
from neuromix.mixers.sdsa import SpikeAttention
from neuromix.neurons import IELIF

LIF = Spec("lif", {"tau": 2.0})


@pytest.mark.parametrize("tokens, channels", [(196, 48), (4, 16), (1, 8)])
def test_either_order_gives_the_same_integers(tokens, channels):
    q, k, v = (torch.rand(3, 2, 2, 2, tokens, channels) < 0.3).float()
    kv, qk = (SpikeAttention(3, 0.125, 0.5, LIF, order) for order in ("kv", "qk"))
    products = kv.products(q, k, v)
    assert torch.equal(products, qk.products(q, k, v))
    assert torch.equal(products * 0.125 * 8, products.round()), "eight times the current is an integer"
    assert torch.equal(kv(q, k, v), qk(q, k, v))


def test_projections_are_plain_and_only_the_last_has_a_bias():
    mixer = make_mixer(Spec("ssa", {"heads": 2}), 8)
    assert all(isinstance(module, ConvBN) for module in (*mixer.projections.values(), mixer.out))
    assert [module.conv.bias is not None for module in (*mixer.projections.values(), mixer.out)] == [
        0,
        0,
        0,
        1,
    ]
    biased = make_mixer(Spec("ssa", {"heads": 2, "qkv_bias": True}), 8)
    assert all(module.conv.bias is not None for module in biased.projections.values())
    x_TBCHW = (torch.rand(2, 3, 8, 4, 4) < 0.5).float()
    assert mixer(x_TBCHW).shape == x_TBCHW.shape


def test_tokens_may_stand_in_any_shape():
    """There is no position in it: a map and the row of its tokens give the same."""
    torch.manual_seed(0)
    mixer = make_mixer(Spec("ssa", {"heads": 2, "scale": 1.0}), 8).eval()
    x_TBCHW = (torch.rand(2, 3, 8, 4, 4) < 0.5).float()
    row = mixer(x_TBCHW.reshape(2, 3, 8, 16, 1))
    torch.testing.assert_close(mixer(x_TBCHW).reshape(row.shape), row)


def test_a_neuron_of_its_own():
    own = ["ie_lif", {"levels": 2, "height": 3.0}]
    mixer = make_mixer(Spec("sdsa", {"heads": 2, "neuron": ["ie_lif", {}], "attention_neuron": own}), 8)
    assert isinstance(mixer.attention.neuron, IELIF) and mixer.attention.neuron.config.height == 3.0
    assert mixer.neurons["q"].levels == 4
    with pytest.raises(ConfigError, match="attention_neuron must be null"):
        make_mixer(Spec("sdsa", {"form": 4, "attention_neuron": own}), 8)
