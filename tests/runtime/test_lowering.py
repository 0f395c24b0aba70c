"""Lowering: a program gives the answers of its model, spike for spike, and what cannot be lowered is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from einops import rearrange
from torch import nn

from neuromix import create_model
from neuromix.core.errors import ShapeError, UnsupportedError
from neuromix.core.model import Model, ModelConfig
from neuromix.core.time import Repeat, fold
from neuromix.layers.conv import ConvBN
from neuromix.layers.norm import BatchNorm2d
from neuromix.layers.residual import Residual
from neuromix.neurons import IF, ILIF, LIF, LeakyIntegrator
from neuromix.runtime.lowering import lower
from neuromix.runtime.reference import run_reference
from tests.runtime.lowered import META, images, lively, randomised, require_same, tiny, tiny_meta

NANO, DIGIT = "meta_spikeformer_nano", (1, 8, 8)
SMALL = (3, 8, 8)


NETS = {
    "nano": (NANO, DIGIT, {}),
    **{f"attention form {form}": (META, DIGIT, tiny_meta(attention={"form": form})) for form in (1, 2, 3, 4)},
    **{
        f"{shortcut} shortcut": (META, DIGIT, tiny_meta(shortcut=shortcut)) for shortcut in ("sew", "vanilla")
    },
    "two heads": (META, DIGIT, tiny_meta(distillation=True)),
    "preact": ("spiking_preact_resnet", SMALL, tiny("spiking_preact_resnet")),
    "preact, plain shortcut": (
        "spiking_preact_resnet",
        SMALL,
        tiny("spiking_preact_resnet", shortcut="input", head_pool=None),
    ),
    "vgg": ("spiking_vgg", (2, 8, 8), tiny("spiking_vgg", in_channels=2)),
    "vgg, pooled, hidden layer": (
        "spiking_vgg",
        (2, 8, 8),
        tiny(
            "spiking_vgg", map_side=None, hidden=(32,), layers=(4, "M", 8), **{"activation.v_threshold": 0.1}
        ),
    ),
    "vgg, side divides": ("spiking_vgg", (2, 16, 16), tiny("spiking_vgg", map_side=2)),
    "nf": ("spiking_nf_resnet", SMALL, tiny("spiking_nf_resnet", **{"activation.v_threshold": 0.3})),
    "nf, two convolutions": (
        "spiking_nf_resnet",
        SMALL,
        tiny("spiking_nf_resnet", bottleneck=False, shortcut="activated", **{"activation.v_threshold": 0.3}),
    ),
}


@pytest.mark.parametrize("name, shape, overrides", NETS.values(), ids=NETS.keys())
def test_program_equals_the_model(name, shape, overrides):
    model = lively(name, shape, **overrides)
    program = lower(model, input_shape=shape)
    require_same(model, program, images(shape))


NEURONS = {
    "plif": ("plif", {}),
    "if": ("if", {"v_threshold": 0.7}),
    "soft, strict": (
        "lif",
        {"tau": 3.0, "v_reset": None, "compare": ">", "fire_at": 0.8, "decay_input": False},
    ),
    "reset below zero": ("lif", {"v_reset": -0.5, "v_init": 0.1}),
    "height": ("lif", {"height": 0.5}),
    "height learnt": ("lif", {"height": "threshold", "learnable": ["v_threshold", "decay"]}),
    "integers": ("i_lif", {"levels": 3}),
    "integers in units": ("ie_lif", {"levels": 4, "height": 2.0}),
}


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS.keys())
def test_neurons(neuron):
    sends_integers = neuron[0] in ("i_lif", "ie_lif")
    attention = {"neuron": ["lif", {}]} if sends_integers else {}
    model = lively(META, DIGIT, **tiny_meta(neuron=neuron, attention=attention))
    program = lower(model, input_shape=DIGIT)
    require_same(model, program, images(DIGIT))
    kinds = {edge.type.name for edge in program.edges}
    assert ("integer" in kinds) == sends_integers


@pytest.mark.parametrize("name", ["spiking_vgg", "spiking_preact_resnet"])
def test_a_frame_a_step(name):
    model = lively(name, (3, 8, 8), **tiny(name, in_channels=3))
    program = lower(model, input_shape=(3, 8, 8))
    frames = torch.randn(2, model.config.time_steps, 3, 8, 8)
    require_same(model, program, frames, frames=True)


def test_spikes_stay_spikes():
    """A convolution reads what neurons send, whatever the height of a spike; only the first one reads the image."""
    model = lively("spiking_nf_resnet", SMALL, **tiny("spiking_nf_resnet", shortcut="activated"))
    program = lower(model, input_shape=SMALL)
    reads = {program.edges[node.inputs[0]].type.name for node in program.nodes if node.op == "conv"}
    assert reads == {"real", "binary"}
    first, *others = (node for node in program.nodes if node.op == "conv")
    assert first.inputs == (0,)
    assert all(program.edges[node.inputs[0]].type.name == "binary" for node in others[:-1])


def test_the_model_is_left_as_it_was():
    model = lively(META, DIGIT, **tiny_meta())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = images(DIGIT)
    y = model(x)
    lower(model.train(), input_shape=DIGIT)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(model.eval()(x), y)


def test_names_classes_and_the_default_shape():
    model = create_model("meta_spikeformer", **tiny("meta_spikeformer"))
    program = lower(model, classes=("a", "b", "c"))
    assert (program.name, program.time_steps, program.readout) == ("meta_spikeformer", 2, "mean")
    assert program.classes == ("a", "b", "c")
    assert program.input_shape == (3, 8, 8)
    modules = dict(model.named_modules())
    # A re-parameterised convolution is lowered as its factors, which have names of their own.
    assert all(node.name in modules or node.name.rpartition(".")[0] in modules for node in program.nodes[1:])
    with pytest.raises(UnsupportedError, match="needs no class names or 3"):
        lower(model, classes=("a",))


class Plain(Model):
    """One time step's work is `body`, of a model that is put together by hand."""

    stream_axis = 0

    def __init__(self, body: nn.Module, readout: str = "mean") -> None:
        super().__init__(ModelConfig())
        self.body, self.how = body, readout

    def encode(self, *inputs: Any) -> Any:
        return inputs[0] if inputs[0].dim() == 5 else inputs[0].expand(4, *inputs[0].shape)

    def forward_steps(self, x: Any) -> Any:
        return self.body(x)

    def readout(self, y: Any) -> Any:
        return {"mean": lambda: y.mean(0), "sum": lambda: y.sum(dim=0), "last": lambda: y[-1]}[self.how]()


class Folded(nn.Module):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*modules)

    def forward(self, x_T: Any) -> Any:
        return fold(self.inner, x_T)


def plain(*modules: nn.Module, readout: str = "mean", shape: tuple[int, int, int] = SMALL) -> Model:
    torch.manual_seed(0)
    return randomised(Plain(nn.Sequential(*modules), readout), shape)


@pytest.mark.parametrize("readout", ["mean", "sum", "last"])
def test_readouts(readout):
    head = Folded(nn.Flatten(), nn.Linear(4 * 64, 5))
    model = plain(Folded(nn.Conv2d(3, 4, 3, padding="same")), LIF(v_threshold=0.2), head, readout=readout)
    program = lower(model, input_shape=SMALL).replace(time_steps=4)
    assert program.readout == readout
    require_same(model, program, images(SMALL))


def test_batch_norm_alone_goes_into_the_neuron_or_the_convolution():
    trunk = Folded(nn.Conv2d(3, 4, 3, bias=False))
    convolution = Folded(nn.Conv2d(4, 4, 3, padding=1), BatchNorm2d(4))
    norm_first = nn.Sequential(Folded(BatchNorm2d(4)), LIF(), convolution)
    model = plain(
        trunk,
        Residual(norm_first),
        LIF(v_threshold=0.5),
        Folded(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5)),
    )
    program = lower(model, input_shape=SMALL).replace(time_steps=4)
    assert [node.op for node in program.nodes[1:]] == [
        "conv",
        "lif",
        "conv",
        "add",
        "lif",
        "avg_pool",
        "conv",
    ]
    require_same(model, program, images(SMALL))


def test_a_neuron_that_never_fires_is_a_readout():
    model = plain(Folded(nn.Conv2d(3, 4, 3)), LIF(v_threshold=0.2), Folded(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                  Folded(nn.Linear(4, 5)), LeakyIntegrator(tau=3.0), readout="last")  # fmt: skip
    program = lower(model, input_shape=SMALL).replace(time_steps=4)
    assert program.nodes[program.output]["reset"] == "none"
    require_same(model, program, images(SMALL))


def test_arithmetic_with_constants():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3, 1, 1) + 0.5)

        def forward(self, x: Any) -> Any:
            return 2 - (self.weight * x + 0.5) / 1.5 - x

    model = plain(Scaled(), IF(), Folded(nn.Conv2d(3, 4, 2, stride=2), nn.Flatten(), nn.Linear(64, 5)))
    require_same(model, lower(model, input_shape=SMALL).replace(time_steps=4), images(SMALL))


def test_channels_have_coefficients_of_their_own():
    neuron = LIF(v_threshold=0.3, learnable=("v_threshold", "decay"), channels=4)
    model = plain(Folded(nn.Conv2d(3, 4, 3)), neuron, Folded(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)))
    with torch.no_grad():
        neuron.v_threshold.uniform_(0.1, 0.5)  # type: ignore[union-attr]
        neuron.decay.uniform_(0.2, 0.9)
    require_same(model, lower(model, input_shape=SMALL).replace(time_steps=4), images(SMALL))


def test_a_module_used_twice_is_two_nodes_with_two_states():
    neuron = LIF(v_threshold=0.2)
    conv = Folded(nn.Conv2d(3, 3, 3, padding=1))
    model = plain(conv, neuron, conv, neuron, Folded(nn.Flatten(), nn.Linear(192, 5)))
    program = lower(model, input_shape=SMALL).replace(time_steps=4)
    assert [node.op for node in program.nodes[1:]] == ["conv", "lif", "conv", "lif", "conv"]
    x = images(SMALL)
    torch.testing.assert_close(run_reference(program, x).output, model(x), rtol=1e-4, atol=1e-5)


def test_only_a_factor_may_follow_the_readout():
    def built(finish: Any) -> Plain:
        model = Plain(nn.Sequential(LIF(v_threshold=0.2), Folded(nn.Flatten(), nn.Linear(192, 5))), "sum")
        model.readout = lambda y: finish(y.sum(0))  # type: ignore[method-assign]
        return model

    model = built(lambda y: y / 4)
    program = lower(model, input_shape=SMALL).replace(time_steps=4)
    x = images(SMALL)
    torch.testing.assert_close(run_reference(program, x).output, model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedError, match="a constant is added to the sum over time"):
        lower(built(lambda y: y + 1), input_shape=SMALL)
    with pytest.raises(UnsupportedError, match="works on what has been read over time"):
        lower(built(lambda y: nn.functional.linear(y, torch.ones(3, 5))), input_shape=SMALL)


REFUSED_NEURONS = {
    "reset one step later": ("lif", {"v_reset": None, "reset": "next"}),
    "a synaptic current": ("cuba_lif", {}),
    "an adapting threshold": ("adaptive_lif", {}),
    "with chance": ("stochastic_if", {}),
    "levels must be at most 255": ("i_lif", {"levels": 300}),
}


@pytest.mark.parametrize("reason", REFUSED_NEURONS)
def test_neurons_without_a_form(reason):
    model = create_model("spiking_vgg", **tiny("spiking_vgg", activation=REFUSED_NEURONS[reason]))
    with pytest.raises(
        UnsupportedError, match=rf"spiking_vgg\.stages\.0\.0\.activate\.activation .*{reason}"
    ):
        lower(model)


class Odd(nn.Module):
    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.does = forward

    def forward(self, x: Any) -> Any:
        return self.does(x)


REFUSED = {
    "relu": (lambda x: torch.relu(x), r"body\.0 \(Odd\): relu\(\) has no form in an .nmx file; known: .*avg_pool2d"),
    "a product": (lambda x: x * x, "a product of two values"),
    "dropout": (lambda x: nn.functional.dropout(x, 0.5), "dropout has chance in it"),
    "cat": (lambda x: torch.cat([x, x], 2), r"cat\(\) has no form"),
    "mean over channels": (lambda x: x.mean(2), "over H and W it has a form"),
    "a map of constants": (lambda x: x + torch.rand(8, 8), "is not one number a channel"),
    "an index": (lambda x: x[:, :, 0], "has no form"),
    "a conv over time": (lambda x: nn.functional.conv2d(x, torch.rand(1, 3, 1, 1)), r"needs a map \[B, C, H, W\]"),
    "what no rule knows": (lambda x: rearrange(x, "T B C H W -> T B C W H"), "cannot be followed: .*einops"),
    "an attribute": (lambda x: x.T, "cannot be followed: T"),
    "pooling up": (lambda x: fold(nn.AdaptiveAvgPool2d(3), x), "needs a linear layer behind it"),
    "a map for an output": (lambda x: x, r"the output must be real, \[K, 1, 1\]"),
}  # fmt: skip


@pytest.mark.parametrize("does, message", REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_form_is_named(does, message):
    body = nn.Sequential(Odd(does), IF(), Odd(lambda x: x + 1))
    with pytest.raises(UnsupportedError, match=message) as caught:
        lower(Plain(body), input_shape=SMALL)
    assert "\n" not in str(caught.value)


def test_models_that_are_not_for_it():
    with pytest.raises(UnsupportedError, match="no spike time to step along"):
        lower(create_model("poolformer_nano"))
    with pytest.raises(UnsupportedError, match="gives feature maps"):
        lower(create_model(NANO, features_only=True))
    place = r"stages\.3\.blocks\.0\.mixer\.branch\.attention"
    for form, neuron, message in (
        (3, LeakyIntegrator(), "on real numbers"),
        (1, ILIF(), "gates of integers"),
    ):
        model = create_model(NANO, **{"mixer.form": form})
        model.stages[3].blocks[0].mixer.branch.neurons["q"] = neuron
        with pytest.raises(UnsupportedError, match=f"{place} .*{message}"):
            lower(model)


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 9, 8), (1, 8), (1, 0, 8)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(ShapeError):
        lower(create_model(NANO), input_shape=shape)


def test_the_static_stem_is_computed_once():
    model = plain(Repeat(4, ConvBN(3, 4, 3)), LIF(v_threshold=0.3), Folded(nn.Flatten(), nn.Linear(256, 5)))
    program = lower(model, input_shape=SMALL)
    run = run_reference(program, images(SMALL), 6)
    assert [len(run.values[node]) for node in range(4)] == [1, 1, 6, 6]
