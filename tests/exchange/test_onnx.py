"""ONNX files: every classifier as one, and what is refused.

Shapes: T spike time, B batch, C channels, H W feature map, K classes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from neuromix import create_model
from neuromix.cli import main
from neuromix.core.errors import ConfigError, MissingExtraError, NeuromixError, RunError, UnsupportedError
from neuromix.core.model import Model
from neuromix.exchange import onnx as exchange
from neuromix.exchange import tensor_function
from neuromix.exchange.onnx import export_onnx, onnx_session
from neuromix.neurons import IF, LIF, PLIF, Neuron
from neuromix.neurons.integer import IntegerNeuron
from neuromix.neurons.neuron import make_neuron
from neuromix.ops.lif import lif_reference
from tests.catalogue import own_entries
from tests.runtime.lowered import lively, tiny

CLASSIFIERS = [name for name, entry in own_entries("model").items() if "image-classification" in entry.tasks]
SMALL = "spiking_vgg"
# Thresholds low enough for the currents of a tiny net.
LIVELY = {
    "meta_spikeformer": {"neuron.v_threshold": 0.5},
    "spiking_nf_resnet": {"activation.v_threshold": 0.2},
    "quantised_resnet": {"activation.bits": 6, "activation.scale": 0.05},  # its logits are quantised as well
}


def net(name: str = SMALL, **overrides) -> Model:
    """A tiny model whose neurons fire."""
    values = tiny(name, **LIVELY.get(name, {}), **overrides)
    shape = create_model(name, **values).example(1)["image"].shape[1:]
    return lively(name, tuple(shape), **values)


def images(model: Model, count: int) -> torch.Tensor:
    """Noise [B, C, H, W]."""
    return model.example(count, torch.Generator().manual_seed(5))["image"]


def properties(path: Path) -> dict[str, str]:
    return {each.key: each.value for each in onnx.load(path).metadata_props}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_gives_the_same_logits(name, tmp_path):
    model = net(name).train()  # the file is of eval mode whatever the mode
    names = tuple(f"class {number}" for number in range(model.config.num_classes))
    made = export_onnx(model, tmp_path / "net.onnx", classes=names)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert made.bytes == made.path.stat().st_size

    assert made.comparison is not None
    assert made.comparison.scale > 0.01
    assert made.comparison.difference < 1e-4
    assert made.comparison.flipped < 1e-4
    x_BCHW = images(model, 5)
    with torch.no_grad():
        expected_BK = model.eval()(x_BCHW).numpy()
    actual_BK = onnx_session(made.path, threads=1)(x_BCHW.numpy())
    np.testing.assert_array_equal(actual_BK.argmax(1), expected_BK.argmax(1))
    np.testing.assert_allclose(actual_BK, expected_BK, atol=1e-4)

    neurons = [module for module in model.modules() if isinstance(module, Neuron)]
    integer = [neuron for neuron in neurons if isinstance(neuron, IntegerNeuron)]
    firing = [neuron.config.compare for neuron in neurons if neuron not in integer]
    for operator, compare in {"GreaterOrEqual": ">=", "Greater": ">"}.items():
        assert made.operators.get(operator, 0) == firing.count(compare) * made.time_steps
    assert made.operators.get("Floor", 0) >= len(integer)  # without state, all steps are one operator
    assert not made.operators.keys() & {"Less", "LessOrEqual", "RandomUniformLike"}
    assert [output.name for output in onnx.load(made.path).graph.output] == ["logits"]
    about = properties(made.path)
    assert about["model"] == name
    assert json.loads(about["classes"]) == list(names)
    assert ("time_steps" in about) == bool(neurons)
    assert str(Path.cwd()) not in made.path.read_bytes().decode("latin-1"), "paths of this machine"


def test_steps_of_a_step_graph_make_the_whole(tmp_path):
    model = net(time_steps=3)
    made = export_onnx(model, tmp_path / "step.onnx", step=True)
    assert [state.name for state in made.states] == [
        f"state.{number}.v" for number in range(len(made.states))
    ]
    assert json.loads(properties(made.path)["states"])[0]["module"] == made.states[0].module
    session = onnxruntime.InferenceSession(str(made.path), providers=["CPUExecutionProvider"])
    x_BCHW = images(model, 4)
    fed = {"image": x_BCHW.numpy()}
    fed |= {state.name: np.full((4, *state.shape), state.initial, np.float32) for state in made.states}
    steps = []
    for _ in range(3):
        outputs = dict(
            zip([output.name for output in session.get_outputs()], session.run(None, fed), strict=True)
        )
        steps.append(outputs.pop("logits"))
        fed |= {name.removesuffix(".next"): value for name, value in outputs.items()}
    with torch.no_grad():
        expected_BK = model(x_BCHW).numpy()
    assert np.abs(steps[0] - steps[1]).max() > 1e-3, "the states matter"
    np.testing.assert_allclose(np.mean(steps, 0), expected_BK, atol=1e-5)


@pytest.mark.parametrize(
    "neuron",
    [
        IF(),
        LIF(tau=1.7, v_reset=None, decay_input=False, compare=">"),
        LIF(tau=3.0, v_reset=-0.3, fire_at=0.9, height="threshold", v_threshold=0.7),
        LIF(v_init=0.2, decay=0.5),
        PLIF(channels=3, learnable=["decay", "v_threshold"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("with_state", [False, True])
def test_neurons_are_written_out_exactly(neuron, with_state):
    x_T = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0)) * 2
    state = (torch.full((2, 3, 4), 0.4),) if with_state else None
    expected = lif_reference(x_T, state, neuron.constants(), neuron.surrogate)
    spikes_T, (v,) = tensor_function.fire(neuron, x_T, state, return_state=True)
    assert expected.spikes.any()
    assert torch.equal(spikes_T, expected.spikes)
    assert torch.equal(v, expected.state[0])


@pytest.mark.parametrize(
    ("spec", "operator"),
    [(("i_lif", {"levels": 3}), "Floor"), (("cuba_lif", {"compare": ">"}), "Greater")],
    ids=["i_lif", "cuba_lif"],
)
def test_other_neurons_run_by_their_reference(spec, operator, tmp_path):
    made = export_onnx(net(activation=spec), tmp_path / "net.onnx", time_steps=1)
    assert made.time_steps == 1
    assert made.operators[operator] > 0
    assert made.comparison.scale > 0.01


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("the one before")
    monkeypatch.setattr(tensor_function, "_times", lambda factor, x: 1.5 * x)
    with pytest.raises(
        RunError, match=r"is not written, as onnxruntime gives other numbers: .*% of the spikes"
    ):
        export_onnx(net(time_steps=1), path)
    assert path.read_text() == "the one before"
    assert [*tmp_path.iterdir()] == [path]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exchange, "_compare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(net("poolformer"), tmp_path / "net.onnx")
    assert not [*tmp_path.iterdir()]


def test_bad_paths(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        export_onnx(net(), tmp_path / "file" / "net.onnx")
    with pytest.raises(RunError, match="no ONNX file at"):
        onnx_session(tmp_path / "nothing.onnx")


def refused(error: type[NeuromixError], match: str, tmp_path: Path, model: Model, **options) -> None:
    with pytest.raises(error, match=match) as caught:
        export_onnx(model, tmp_path / "net.onnx", **options)
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_what_has_no_onnx_form_is_refused(tmp_path):
    chance = net()
    chance.stages[0][0].activate.activation = make_neuron("stochastic_if")
    refused(UnsupportedError, r"stages.0.0.activate.activation draws random numbers", tmp_path, chance)
    pyramid = create_model("poolformer_nano", features_only=True)
    refused(UnsupportedError, "poolformer_nano gives feature maps", tmp_path, pyramid)
    words = net("poolformer")
    words.inputs = (words.inputs[0]._replace(name="ids"),)
    refused(UnsupportedError, "poolformer takes ids; only an image classifier", tmp_path, words)


def test_wrong_arguments_are_refused(tmp_path):
    refused(NeuromixError, "time_steps", tmp_path, net("poolformer"), time_steps=2)
    refused(ConfigError, "stream_axis is None", tmp_path, net("poolformer"), step=True)
    refused(ConfigError, "a step graph has one time step", tmp_path, net(), step=True, time_steps=2)
    refused(
        NeuromixError, r"expected a floating-point tensor \[B, 2,", tmp_path, net(), input_shape=(7, 8, 8)
    )
    refused(NeuromixError, "an image is C, H, W", tmp_path, net(), input_shape=(8, 8))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    refused(MissingExtraError, r'pip install "neuromix\[export\]"', tmp_path, net())


def test_command(tmp_path, capsys):
    path = tmp_path / "net.onnx"
    assert main(["export", "poolformer_nano", "--to", "onnx", "-o", str(path), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["file"] == str(path) and about["bytes"] == path.stat().st_size
    assert about["difference"] < 1e-4
    assert main(["export", "poolformer_nano", "--to", "onnx", "-o", str(path), "--quantize", "int8"]) == 2
    assert "float32" in capsys.readouterr().err
