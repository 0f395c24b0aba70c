"""profile as a whole: sums agree, time may be folded, the model is left alone, nothing is silently free."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import neuromix
from neuromix.core import registry
from neuromix.core.errors import ConfigError, NeuromixError, ShapeError
from neuromix.core.observe import Noise
from neuromix.measure import CountingRule, count_parameters, parameters_by_module, profile
from neuromix.measure.products import PRODUCTS, MatrixProduct, counts
from neuromix.neurons import IF, LIF
from tests.catalogue import own_entries


@pytest.fixture(params=sorted(own_entries("model")))
def tiny(request):
    entry = registry.entries("model")[request.param]
    torch.manual_seed(0)
    model = entry.build(entry.config.from_dict(entry.tiny))
    model.name = request.param
    return model


@pytest.mark.parametrize("counting", ["exact", "paper"])
def test_every_registered_model(tiny, counting):
    batch = tiny.example(2, torch.Generator().manual_seed(0))
    seen = profile(tiny, batch, counting)
    assert not seen.not_counted
    assert seen.batch_size == 2
    assert seen.macs_dense == sum(layer.macs_dense for layer in seen.layers) > 0
    assert seen.synaptic_operations == pytest.approx(sum(layer.synaptic_operations for layer in seen.layers))
    assert seen.energy["45nm"] == pytest.approx(sum(layer.energy["45nm"] for layer in seen.layers))
    assert sum(layer.energy_share for layer in seen.layers) == pytest.approx(1.0)
    macs, acs = seen.operations.get("mac32", 0), seen.operations.get("ac32", 0)
    assert seen.energy["45nm"] == pytest.approx((4.6 * macs + 0.9 * acs) * 1e-9)
    assert acs == seen.synaptic_operations
    assert all(0 <= layer.firing_rate <= 1 for layer in seen.layers if layer.firing_rate is not None)
    again = json.loads(json.dumps(seen.to_dict()))
    assert {
        "parameters",
        "macs_dense",
        "synaptic_operations",
        "firing_rate",
        "energy",
        "layers",
    } <= again.keys()


def test_per_sample_figures_do_not_depend_on_the_batch(tiny):
    batch = tiny.example(1, torch.Generator().manual_seed(0))
    one, three = profile(tiny, batch), profile(tiny, batch.select([0, 0, 0]))
    assert one.macs_dense == three.macs_dense
    assert one.operations == pytest.approx(three.operations)
    assert one.traffic == pytest.approx(three.traffic)
    assert one.state_bytes == three.state_bytes
    assert one.firing_rate == pytest.approx(three.firing_rate)


class Net(nn.Module):
    """Neuron, convolution, neuron, linear; every part that works on single steps takes T folded into B."""

    def __init__(self, step_by_step=False):
        super().__init__()
        self.first = IF(v_threshold=0.5)
        self.conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.second = LIF(v_threshold=0.2)
        self.attention = nn.Flatten(2)
        self.head = nn.Linear(9, 4)
        self.step_by_step = step_by_step

    def time_free(self, module, x_T):
        if self.step_by_step:
            return torch.stack([module(x) for x in x_T])
        return module(x_T.flatten(0, 1)).unflatten(0, x_T.shape[:2])

    def forward(self, x_T):
        spikes = self.second(self.time_free(self.conv, self.first(x_T)))
        q = self.time_free(self.attention, spikes)
        return self.time_free(self.head, self.second(q @ (q.mT @ q)))


@pytest.mark.parametrize("counting", ["exact", "paper"])
def test_time_folded_into_the_batch_counts_as_step_by_step(counting):
    torch.manual_seed(1)
    folded = Net()
    stepped = Net(step_by_step=True)
    stepped.load_state_dict(folded.state_dict())
    x_T = torch.randn(5, 2, 2, 5, 5)
    a, b = (profile(net, x_T, counting, batch_size=2) for net in (folded, stepped))
    assert a.macs_dense == b.macs_dense
    assert a.operations == pytest.approx(b.operations, rel=1e-12)
    assert a.firing_rate == pytest.approx(b.firing_rate)
    if counting == "exact":
        assert a.operations == b.operations
        assert a.operations.keys() == {"ac32"}


def test_firing_rates_of_neurons_and_layers():
    net = nn.Sequential(IF(v_threshold=1.0), nn.Linear(4, 3), IF(v_threshold=1e9), nn.Linear(3, 2))
    x_TBC = torch.tensor([1.0, 1, 0, 0]).expand(2, 5, 4)
    seen = profile(net, x_TBC, batch_size=5)
    assert [(n.path, n.type, n.elements, n.firing_rate) for n in seen.neurons] == [
        ("0", "IF", 8, 0.5),
        ("2", "IF", 6, 0.0),
    ]
    assert [layer.firing_rate for layer in seen.layers] == [0.5, 0.0]
    assert [layer.input for layer in seen.layers] == ["spike", "spike"]
    assert seen.firing_rate == pytest.approx(4 / 14)
    assert seen.operations == {"ac32": 2 * 2 * 3}


def test_firing_rate_without_neurons_of_ours():
    binary = (torch.arange(8) % 4 == 0).float().reshape(1, 8)
    assert profile(nn.Linear(8, 2), binary).firing_rate == 0.25
    assert profile(nn.Linear(8, 2), torch.randn(1, 8)).firing_rate is None


def test_a_shared_module_counts_each_time_it_runs():
    shared = nn.Linear(4, 4)
    seen = profile(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(3, 4))
    assert seen.macs_dense == 2 * 16
    assert [layer.path for layer in seen.layers] == ["0"]
    assert seen.parameters == 20


def test_both_kinds_of_input_in_one_module():
    class Both(nn.Module):
        def forward(self, x):
            return x @ torch.ones(4, 2), (x > 0).float() @ torch.ones(4, 2)

    (layer,) = profile(Both(), torch.tensor([[1.5, -1.0, 2.5, 0.5]])).layers
    assert (layer.path, layer.input, layer.macs_dense) == ("", "mixed", 16)
    assert (layer.synaptic_operations, layer.firing_rate) == (6, 0.75)


class Careless(nn.Module):
    """Draws, keeps running figures, and has children in other modes than itself."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.noise = Noise()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        self.calls += 1
        self.last = x.mean(0)
        return self.linear(self.drop(self.norm(x)) + self.noise.uniform((1, 4), x) + torch.randn(4))


def test_the_model_is_left_as_it_was():
    net = Careless().train()
    net.norm.eval()
    x = torch.randn(3, 4, requires_grad=True)
    net(x).sum().backward()
    before = copy.deepcopy(net.state_dict())
    grads = {name: p.grad.clone() for name, p in net.named_parameters()}
    modes = [module.training for module in net.modules()]
    random = torch.get_rng_state()

    profile(net, x)

    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(torch.equal(grads[name], p.grad) for name, p in net.named_parameters())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())
    assert torch.backends.mha.get_fastpath_enabled()
    net(x).sum().backward()


def test_a_failing_part_that_the_model_catches_keeps_the_paths_right():
    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError

    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.linear = Fails(), nn.Linear(2, 2)

        def forward(self, x):
            try:
                self.part(x)
            except ValueError:
                return self.linear(x) @ torch.ones(2, 2)

    assert [layer.path for layer in profile(Catches(), torch.randn(1, 2)).layers] == ["linear", ""]


def test_outputs_are_those_of_an_ordinary_run():
    outputs = []
    net = neuromix.create_model("meta_spikeformer_nano", time_steps=2).eval()
    handle = net.register_forward_hook(lambda _, __, y: outputs.append(y))
    x = torch.rand(2, 1, 8, 8)
    profile(net, x)
    handle.remove()
    with torch.no_grad():
        assert torch.equal(net(x), outputs[0])


def test_no_activation_is_kept():
    made, alive = [], []

    class Watch(nn.Module):
        def forward(self, x):
            y = x * 2
            made.append(StorageWeakRef(y.untyped_storage()))
            alive.append(sum(not ref.expired() for ref in made))
            return y

    profile(nn.Sequential(*(nn.Sequential(Watch(), nn.Linear(4, 4)) for _ in range(20))), torch.randn(2, 4))
    assert max(alive) <= 3


class Op(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: torch.linalg.inv(x @ x.mT + torch.eye(len(x))), "aten.linalg_inv_ex"),
        (lambda x: torch.cdist(x, x), "aten._cdist_forward"),
        (lambda x: (x[:, None] * x[:, :, None]).sum(-1), "aten.mul (outer product)"),
        (lambda x: nn.functional.bilinear(x, x, torch.rand(2, 4, 4)), "aten._trilinear"),
    ],
)
def test_what_is_not_understood_is_named(function, name):
    assert name in profile(Op(function), torch.rand(3, 4)).not_counted


def test_a_foreign_op_is_named_until_its_count_is_registered():
    library = torch.library.Library("neuromix_test", "FRAGMENT")
    library.define("product(Tensor a, Tensor b) -> Tensor")
    library.impl("product", lambda a, b: a @ b, "CompositeExplicitAutograd")
    op = torch.ops.neuromix_test.product
    net = Op(lambda x: op(x, torch.ones(4, 2)))
    assert profile(net, torch.rand(3, 4)).not_counted == {"neuromix_test.product": 1}
    counts(op)(lambda a, b: [MatrixProduct(a, b)])
    try:
        seen = profile(net, torch.rand(3, 4))
    finally:
        del PRODUCTS[op]
    assert (seen.macs_dense, seen.not_counted) == (8, {})


def test_the_fused_attention_layer_of_pytorch_is_seen_through():
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    seen = profile(net, torch.rand(1, 5, 8))
    assert seen.macs_dense == 5 * 8 * 8 * 4 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16
    assert not seen.not_counted


def test_ways_to_give_inputs():
    net = neuromix.create_model("poolformer_nano")
    batch = net.example(3)
    figures = {profile(net, given).macs_dense for given in (batch, batch["image"], [batch["image"]])}
    assert len(figures) == 1
    with pytest.raises(ConfigError, match="names no inputs"):
        profile(nn.Linear(2, 2), batch)
    with pytest.raises(ShapeError, match="at least one sample"):
        profile(nn.Linear(2, 2), torch.zeros(0, 2))
    with pytest.raises(ShapeError, match="single number"):
        profile(nn.Linear(2, 2), torch.tensor(1.0))
    with pytest.raises(NeuromixError, match="meta device"):
        profile(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2))
    with torch.inference_mode():
        assert profile(nn.Linear(2, 2), torch.ones(1, 2) * 0.5).macs_dense == 4


def test_frames_are_steps_and_not_samples():
    net = neuromix.create_model("meta_spikeformer_nano", time_steps=3)
    image = torch.rand(2, 1, 8, 8)
    static, frames = profile(net, image, "paper"), profile(net, image.expand(3, *image.shape), "paper")
    assert (static.batch_size, frames.batch_size) == (2, 2)
    assert static.operations == pytest.approx(frames.operations)
    assert static.macs_dense == frames.macs_dense


def test_parameters():
    net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3, bias=False)))
    net[0].bias.requires_grad_(False)
    assert count_parameters(net) == 6 + 9
    assert count_parameters(net, trainable_only=False) == 18
    assert parameters_by_module(net) == {"0": 6, "1.0": 9}


@pytest.mark.slow
def test_meta_spikeformer_15m_gives_the_published_figures():
    net = neuromix.create_model("meta_spikeformer_15m", time_steps=1)
    x = torch.randn(1, 3, 224, 224)
    seen = profile(net, x, "paper")
    attention = sum(layer.macs_dense for layer in seen.layers if layer.type == "SpikeAttention")
    assert attention / 1e9 == pytest.approx(0.032, abs=5e-4)
    assert (seen.macs_dense - attention) / 1e9 == pytest.approx(6.441, abs=5e-4)
    assert seen.operations["mac32"] / 1e9 == pytest.approx(0.0590, abs=5e-5)
    energy = 4.6 * seen.operations["mac32"] + 0.9 * seen.synaptic_operations
    assert seen.energy["45nm"] == pytest.approx(energy * 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("poolformer_s12", 1.8123), ("metaformer_pppa_s12_224", 1.9199), ("metaformer_ppaa_s12_224", 2.5492)],
)
def test_poolformer_gives_the_published_figures(name, gmacs):
    seen = profile(neuromix.create_model(name), torch.randn(1, 3, 224, 224))
    assert seen.macs_dense / 1e9 == pytest.approx(gmacs, rel=1e-3)
    assert seen.operations == {"mac32": seen.macs_dense}


def test_paper_energy_rises_linearly_in_time_at_constant_rates():
    class Always(nn.Module):
        def __init__(self, steps):
            super().__init__()
            self.steps, self.linear = steps, nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(x.sign().abs().expand(self.steps, *x.shape).flatten(0, 1))

    one, four = (profile(Always(steps), torch.rand(2, 4) + 1, CountingRule()) for steps in (1, 4))
    assert four.energy["45nm"] == pytest.approx(4 * one.energy["45nm"])
