"""What each point of a CountingRule charges, on nets counted by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import neuromix
from neuromix.core.errors import ConfigError, UnknownNameError
from neuromix.core.time import Repeat, fold
from neuromix.measure import CountingRule, counting_rule, profile
from neuromix.neurons import LIF
from tests.golden.fixtures import list_fixtures, read_fixture

FIXTURES = [
    path
    for path in list_fixtures({"meta-spikeformer"})
    if json.loads(path.read_text())["kind"] == "sdsa_repconv"
]


def test_border_additions():
    # One spike in the corner of 3x3 reaches 2x2 outputs of a padded 3x3 convolution, one in the middle all nine.
    net = nn.Conv2d(1, 2, 3, padding=1)
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 0, 0] = 1
    assert profile(net, x).operations == {"ac32": 4 * 2}
    assert profile(net, x, "paper").operations == {"ac32": pytest.approx(1 / 9 * 9 * 9 * 2)}
    x[0, 0, 1, 1] = 1
    assert profile(net, x).operations == {"ac32": (4 + 9) * 2}
    assert profile(net, x).macs_dense == 9 * 9 * 2


def test_integer_spikes():
    net, x = nn.Linear(4, 10), torch.tensor([[0.0, 1.0, 3.0, 0.0]])
    assert profile(net, x).operations == {"ac32": 40}
    assert profile(net, x, CountingRule(integer_spikes="nonzero")).operations == {"ac32": 20}
    rate = CountingRule(additions="rate")
    assert profile(net, x, rate).operations == {"ac32": 40}
    assert profile(net, x, rate.replace(integer_spikes="nonzero")).operations == {"ac32": 20}


class Static(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Repeat(4, nn.Linear(3, 5))
        self.neuron = LIF()
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x_TBC = x if x.dim() == 3 else x[None]
        return fold(self.head, self.neuron(self.stem(x_TBC))).mean(0)


def test_static_stem():
    net, x = Static(), torch.randn(2, 3)
    once, every_step = profile(net, x), profile(net, x, CountingRule(static_stem="every_step"))
    assert once.operations["mac32"] == 15
    assert every_step.operations["mac32"] == 4 * 15
    assert once.macs_dense == 15 + 4 * 10
    assert every_step.macs_dense == 4 * (15 + 10)
    assert once.operations["ac32"] == every_step.operations["ac32"]
    # A full time axis leaves nothing to repeat.
    frames = profile(net, torch.randn(4, 2, 3), batch_size=2)
    assert frames.operations["mac32"] == 4 * 15


def test_word_length():
    net, x = nn.Linear(4, 2).double(), torch.randn(1, 4).double()
    assert profile(net, x).operations == {"mac32": 8}
    assert profile(net, x, CountingRule(bits=None)).operations == {"mac64": 8}
    assert "45nm" not in profile(net, x, CountingRule(bits=None)).energy  # no price at 64 bits
    assert profile(net, x, CountingRule(bits=16)).energy["45nm"] == pytest.approx(8 * 1.5e-9)


def test_structure_fused():
    net = neuromix.create_model("meta_spikeformer_nano", time_steps=1)
    built, fused = (
        profile(net, torch.rand(1, 1, 8, 8), CountingRule(structure=s)) for s in ("as_built", "fused")
    )
    convs = [layer for layer in fused.layers if layer.path.endswith("projections.q")]
    assert len(convs) == 2 and convs[0].macs_dense == 9 * 48 * 48 * 4
    assert fused.parameters == built.parameters
    with pytest.raises(ConfigError, match="registered model"):
        profile(nn.Linear(2, 2), torch.rand(1, 2), CountingRule(structure="fused"))


def test_presets():
    assert counting_rule("exact") == CountingRule()
    assert counting_rule("paper").to_dict() == {
        "additions": "rate",
        "attention": "rates",
        "static_stem": "every_step",
        "linear_chain": "spike",
        "structure": "as_built",
        "integer_spikes": "value",
        "bits": 32,
    }
    rule = CountingRule(attention="rates")
    assert counting_rule(rule) is rule
    assert CountingRule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    with pytest.raises(UnknownNameError, match="did you mean paper"):
        counting_rule("papers")
    with pytest.raises(ConfigError, match="attention must be one of"):
        CountingRule(attention="sums")
    with pytest.raises(ConfigError, match="bits must be positive"):
        CountingRule(bits=0)


@pytest.mark.skipif(not FIXTURES, reason="no golden fixtures of the attention here")
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_attention_counts_of_the_golden_fixture(path):
    class KeyValue(nn.Module):
        def forward(self, k, v):
            return k.mT @ v

    fixture = read_fixture(path)
    k, v = fixture.inputs["k"], fixture.inputs["v"]
    exact, paper = (profile(KeyValue(), (k, v), counting, batch_size=1) for counting in ("exact", "paper"))
    assert exact.synaptic_operations == fixture.outputs["energy/kv_pairs_exact"]
    assert paper.synaptic_operations == pytest.approx(
        float(fixture.outputs["energy/paper_sum_of_rates_sops"])
    )
