"""Networks as graphs of NIR, and graphs of NIR as networks."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import neuromix
from neuromix.cli import main
from neuromix.core import registry
from neuromix.core.errors import (
    CheckpointError,
    ConfigError,
    MissingExtraError,
    NeuromixError,
    RunError,
    ShapeError,
    UnsupportedError,
)
from neuromix.core.stream import stream
from neuromix.exchange import nir_export, nir_file, nir_writer
from neuromix.exchange.nir import from_nir, to_nir, write_nir
from neuromix.models.vision.cnn import Folded
from neuromix.neurons import (
    IF,
    ILIF,
    LIF,
    PLIF,
    AdaptiveLIF,
    CubaLIF,
    LeakyIntegrator,
    StochasticIF,
    make_neuron,
)
from neuromix.runtime.lowering import lower
from neuromix.runtime.quantization import quantize
from neuromix.runtime.reference import run_reference
from tests.catalogue import own_entries
from tests.exchange.nir_nets import (
    CATALOGUE,
    Skip,
    catalogue_model,
    conv,
    convolutional,
    inputs,
    linear,
    on_grid,
    residual,
)

nir = pytest.importorskip("nir")
h5py = pytest.importorskip("h5py")
DT = 1e-4


def float32(net: nn.Module, *shape: int, seed: int = 0, steps: int = 6) -> Tensor:
    """x_T [T, B, *shape] of any numbers, for which the first neurons of the net fire."""
    return 2 * torch.randn(steps, 2, *shape, generator=torch.Generator().manual_seed(seed))


def run(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = net(x)
    return y


# What is written.


def node_of(neuron: nn.Module, dt: float = DT) -> Any:
    return next(
        node
        for node in to_nir(nn.Sequential(neuron), torch.zeros(1, 1, 2), dt=dt).nodes.values()
        if type(node).__name__ not in ("Input", "Output")
    )


BELOW = float(np.nextafter(np.float32(1), np.float32(0)))
EQUATIONS: list[tuple[nn.Module, str, dict[str, float]]] = [
    (LIF(), "LIF", {"tau": 2 * DT, "r": 1, "v_leak": 0, "v_threshold": BELOW, "v_reset": 0}),
    (LIF(tau=4.0, decay_input=False, compare=">"), "LIF", {"tau": 4 * DT, "r": 4, "v_threshold": 1}),
    (LIF(v_reset=-0.5), "LIF", {"v_leak": -0.5, "v_reset": -0.5}),
    (LIF(fire_at=0.5, v_threshold=3.0, compare=">"), "LIF", {"v_threshold": 1.5}),
    (LIF(decay=0.0), "LIF", {"tau": DT, "r": 1}),
    (PLIF(tau=2.0), "LIF", {"tau": 2 * DT, "r": 1}),
    (IF(v_threshold=2.0, compare=">"), "IF", {"r": 1 / DT, "v_threshold": 2, "v_reset": 0}),
    (LIF(decay=1.0, decay_input=False), "IF", {"r": 1 / DT}),
    (CubaLIF(), "CubaLIF", {"tau_mem": 2 * DT, "tau_syn": 2 * DT, "r": 2, "w_in": 2, "v_leak": 0}),
    (
        CubaLIF(tau=4.0, synapse_decay=0.75, decay_input=True),
        "CubaLIF",
        {"tau_syn": 4 * DT, "r": 1, "w_in": 4},
    ),
    (LeakyIntegrator(), "LI", {"tau": 2 * DT, "r": 1, "v_leak": 0}),
    (LeakyIntegrator(decay=1.0, decay_input=False), "I", {"r": 1 / DT}),
]


@pytest.mark.parametrize(("neuron", "kind", "expected"), EQUATIONS, ids=[kind for _, kind, _ in EQUATIONS])
def test_equations(neuron: nn.Module, kind: str, expected: dict[str, float]) -> None:
    node = node_of(neuron)
    assert type(node).__name__ == kind
    for name, value in expected.items():
        assert getattr(node, name).shape == (2,)
        np.testing.assert_allclose(getattr(node, name), value, rtol=2e-7, atol=0)


def euler(node: Any, x_T: np.ndarray, dt: float) -> np.ndarray:
    """The equations of NIR, stepped by Euler's rule as they stand there."""
    kind, state = type(node).__name__, 0.0
    v = np.broadcast_to(getattr(node, "v_reset", np.zeros(1)), x_T.shape[1:]).copy()
    steps = []
    for x in x_T:
        if kind.startswith("Cuba"):
            state = x = state + dt / node.tau_syn * (node.w_in * x - state)
        if kind in ("I", "IF"):
            v = v + dt * node.r * x
        else:
            tau = node.tau_mem if kind.startswith("Cuba") else node.tau
            v = v + dt / tau * (node.v_leak - v + node.r * x)
        if hasattr(node, "v_threshold"):
            spikes = v > node.v_threshold
            v = np.where(spikes, node.v_reset, v)
            steps.append(spikes.astype(np.float64))
        else:
            steps.append(v)
    return np.stack(steps)


@pytest.mark.parametrize(("neuron", "kind", "_"), EQUATIONS, ids=[kind for _, kind, _ in EQUATIONS])
def test_equations_give_our_numbers(neuron: nn.Module, kind: str, _: Any) -> None:
    x_T = inputs(2, steps=40)
    expected_T = run(neuron, x_T)
    assert expected_T.unique().numel() > 1
    np.testing.assert_allclose(
        euler(node_of(neuron), x_T.double().numpy(), DT), expected_T.numpy(), atol=1e-6
    )
    if kind in ("LIF", "IF", "CubaLIF"):
        assert torch.equal(run(from_nir(to_nir(nn.Sequential(neuron), x_T)), x_T), expected_T)


@pytest.mark.parametrize("dt", [1e-3, 1.0, 3e-5])
def test_time_step(dt: float) -> None:
    net, x_T = linear(LIF(), CubaLIF(tau=3.0)), inputs(8)
    graph = to_nir(net, x_T, dt=dt)
    assert graph.metadata["dt"] == dt
    np.testing.assert_allclose(graph.nodes["1"].tau, 2 * dt)
    assert torch.equal(run(from_nir(graph), x_T), run(net, x_T))
    with pytest.raises(ConfigError, match="dt must be"):
        to_nir(net, x_T, dt=0.0)


def test_the_graph_of_a_small_net() -> None:
    graph = to_nir(convolutional(), torch.zeros(1, 1, 2, 6, 6))
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items()}
    assert kinds == {
        "input": "Input",
        "0.module": "Conv2d",
        "1": "LIF",
        "2.module": "AvgPool2d",
        "4.flatten": "Flatten",
        "4": "Affine",
        "5": "LIF",
        "output": "Output",
    }
    assert graph.edges == [*itertools.pairwise(kinds)]
    assert graph.nodes["1"].tau.shape == (4, 6, 6)
    assert [*graph.nodes["output"].output_type["output"]] == [5]


def test_metadata(tmp_path: Path) -> None:
    model = catalogue_model("spiking_vgg")
    write_nir(model, tmp_path / "net.nir")
    metadata = nir.read(tmp_path / "net.nir").metadata
    assert {key: np.asarray(value).item() for key, value in metadata.items()} == {
        "dt": 1e-4,
        "time_steps": 4,
        "readout": "mean",
        "model": "spiking_vgg",
        "neuromix_version": neuromix.__version__,
    }


# There and back.


class Branches(nn.Module):
    """Sums of all kinds: of sums, of a value with itself, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.neuron = LIF()

    def forward(self, x_T: Tensor) -> Tensor:
        a, b, c, d = (layer(x_T) for layer in self.layers)
        right, both = a + (b + (c + d)), (a + b) + (c + d)
        y_T: Tensor = self.neuron(right + both + (a + a))
        return y_T + x_T + y_T


def feedforward(layers: Callable[[nn.Module], tuple[nn.Module, ...]]) -> Callable[[], nn.Module]:
    """A net of layers and a neuron, which may stand in it several times."""
    return lambda: nn.Sequential(*layers(LIF(v_threshold=0.03125, v_reset=-0.03125, height=0.5)))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutional": (convolutional, (2, 6, 6)),
    "residual": (residual, (2, 6, 6)),
    "synapse": (lambda: linear(CubaLIF(), CubaLIF(decay_input=True)), (8,)),
    "no leak": (lambda: linear(IF(), IF(v_reset=-0.5)), (8,)),
    "read-out": (lambda: linear(LIF(tau=3.0), LeakyIntegrator(tau=5.0)), (8,)),
    "learnt": (
        lambda: linear(LIF(channels=16, learnable=["decay", "v_threshold"]), PLIF(channels=5)),
        (8,),
    ),
    "height": (lambda: linear(LIF(height="threshold", v_threshold=0.7, v_reset=-0.3), LIF(height=0.5)), (8,)),
    "integers": (lambda: linear(ILIF(levels=3), make_neuron(("ie_lif", {"levels": 4}))), (8,)),
    "sums": (Branches, (8,)),
    "map": (
        feedforward(lambda neuron: (conv(2, 3), neuron, Folded(nn.Conv2d(3, 4, 3, stride=(2, 1))), neuron)),
        (2, 7, 5),
    ),
    "one place": (
        feedforward(
            lambda neuron: (
                conv(2, 4),
                neuron,
                Skip(conv(4, 4), neuron, conv(4, 4, 1)),
                nn.Flatten(2),
                nn.Linear(4, 3),
            )
        ),
        (2, 1, 1),
    ),
    "groups": (
        feedforward(
            lambda neuron: (conv(4, 8, groups=2), neuron, conv(8, 8, 1, groups=8, bias=False), neuron)
        ),
        (4, 5, 5),
    ),
    "maxima": (
        feedforward(
            lambda neuron: (
                conv(2, 4),
                neuron,
                Folded(nn.MaxPool2d(3, 2, 1)),
                conv(4, 4),
                neuron,
                nn.Flatten(2),
            )
        ),
        (2, 6, 6),
    ),
    "averages": (
        feedforward(
            lambda neuron: (
                conv(2, 4),
                neuron,
                Folded(nn.AvgPool2d(2, padding=1)),
                Folded(nn.AdaptiveAvgPool2d(1)),
            )
        ),
        (2, 6, 6),
    ),
    "kernel of the map": (
        feedforward(lambda neuron: (Folded(nn.Conv2d(2, 5, (4, 3))), neuron, nn.Flatten(2))),
        (2, 4, 3),
    ),
    "one neuron": (LIF, (3, 2, 2)),
}


@pytest.mark.parametrize("name", NETS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    torch.manual_seed(0)
    net = make().eval()
    made = write_nir(net, tmp_path / "net.nir", torch.zeros(1, 1, *shape))
    assert made.comparison.spikes > 0 and made.comparison.flipped == 0
    back = from_nir(tmp_path / "net.nir")
    assert made.input_shape == back.input_shape == shape
    for x_T in (inputs(*shape), float32(net, *shape)):
        expected_T = run(net, x_T)
        assert expected_T.any()
        assert torch.equal(run(back, x_T), expected_T)
    assert torch.equal(run(from_nir(to_nir(back)), x_T), expected_T)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A net of some layers and neurons, and an input."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    channels, side = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    x_T = 2 * torch.randn(draw(st.integers(1, 4)), draw(st.integers(1, 2)), channels, side, side)
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        outputs, kernel = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3]))
        options: dict[str, Any] = {
            "v_reset": draw(st.sampled_from([0.0, -0.25])),
            "v_threshold": draw(st.floats(0.1, 1.0)),
            "compare": draw(st.sampled_from([">", ">="])),
        }
        leak = {"tau": draw(st.floats(1, 10)), "decay_input": draw(st.booleans())}
        kinds = [IF(**options), LIF(**options, **leak), CubaLIF(**options, **leak)]
        layers += [conv(channels, outputs, kernel, bias=draw(st.booleans())), draw(st.sampled_from(kinds))]
        if draw(st.booleans()):
            layers = [nn.Sequential(*layers), Skip(conv(outputs, outputs, kernel), LIF(**options))]
        channels = outputs
    if draw(st.booleans()):
        layers += [nn.Flatten(2), nn.Linear(channels * side * side, 3)]
    return nn.Sequential(*layers), x_T


@settings(max_examples=15, deadline=None)
@given(networks())
def test_any_net_there_and_back(case: tuple[nn.Module, Tensor]) -> None:
    net, x_T = case
    assert torch.equal(run(from_nir(to_nir(net, x_T)), x_T), run(net, x_T))


@pytest.mark.parametrize("levels", [1, 3, 8])
def test_integers_right_up_to_their_thresholds(levels: int) -> None:
    """At the floats around each step, also where adding 1/2 rounds up."""
    around = [np.float32(level - 0.5) for level in range(1, levels + 1)]
    for _ in range(3):
        around += [np.nextafter(x, np.float32(side)) for x in around for side in (-np.inf, np.inf)]
    x_TBF = torch.tensor([-1.0, 0.0, levels + 7.0, *around]).view(1, -1, 1)
    for neuron in (ILIF(levels), make_neuron(("ie_lif", {"levels": levels, "height": 2.0}))):
        for scaled in (x_TBF, x_TBF / levels):
            graph = to_nir(nn.Sequential(neuron), scaled)
            assert torch.equal(run(from_nir(graph), scaled), run(neuron, scaled))


@pytest.mark.parametrize("name", CATALOGUE)
def test_models_of_the_catalogue(name: str, tmp_path: Path) -> None:
    """With norms behind and in front of convolutions: every spike of every layer, in float64."""
    model = catalogue_model(name)
    before = copy.deepcopy(model.state_dict())
    made = write_nir(model, tmp_path / "net.nir")
    assert made.comparison.spikes > 1000 and made.comparison.flipped == 0
    assert made.comparison.difference < 1e-5 < made.comparison.scale
    assert made.bytes == (tmp_path / "net.nir").stat().st_size
    assert made.time_steps == 4
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    back = from_nir(tmp_path / "net.nir", readout="mean").double()
    for image in (model.example(2).tensor("image"), torch.randn(4, 2, *made.input_shape)):
        torch.testing.assert_close(
            run(back, image.double()), run(model, image.double()), rtol=1e-5, atol=1e-6
        )


def test_max_pooling_of_a_model() -> None:
    model = neuromix.create_model(
        "spiking_vgg",
        layers=(4, "M", 8, "M"),
        map_side=2,
        activation=("lif", {"v_threshold": 0.2}),
        norm="none",
    ).eval()
    graph = to_nir(model)
    assert [type(node).__name__ for node in graph.nodes.values()].count("SumPool2d") == 2
    image_BCHW = 3 * model.example(2).tensor("image")
    torch.testing.assert_close(run(from_nir(graph, readout="mean"), image_BCHW), run(model, image_BCHW))


def test_integer_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with weights in 8 bits is written with what they stand for."""
    model = catalogue_model("spiking_vgg")
    image_BCHW = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    program = quantize(lower(model, factored=False), image_BCHW)
    assert any("scale" in node.keys for node in program.nodes)
    monkeypatch.setattr(nir_export, "lower", lambda *_, **__: program)
    net = from_nir(to_nir(model), readout="mean").double()
    expected_BK = run_reference(program, image_BCHW, dtype=torch.float64).output
    torch.testing.assert_close(run(net, image_BCHW.double()), expected_BK, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", own_entries("model"))
def test_every_spiking_model_is_written_or_refused(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = neuromix.create_model(name, **registry.entries("model")[name].tiny)
    if model.stream_axis != 0:
        return
    try:
        assert write_nir(model, tmp_path / "net.nir").comparison.flipped == 0
    except UnsupportedError as error:
        assert name in str(error) and "what can be written: " in str(error)
        assert "\n" not in str(error)


# What a network that was read can do.


def test_steps_and_segments_are_the_whole() -> None:
    x_T = inputs(2, 6, 6)
    net = from_nir(to_nir(residual(), x_T))
    expected_T, stepper, state = run(net, x_T), stream(net), None
    with torch.no_grad():
        steps = []
        for x in x_T:
            y, state = stepper.step(x, state)
            steps.append(y)
        assert torch.equal(torch.stack(steps), expected_T)
        first, state = stepper.prefill(x_T[:2])
        assert torch.equal(torch.cat([first, stepper.prefill(x_T[2:], state)[0]]), expected_T)


@pytest.mark.parametrize("name", ["convolutional", "residual", "no leak", "synapse", "maxima", "learnt"])
def test_it_can_be_lowered(name: str) -> None:
    make, shape = NETS[name]
    torch.manual_seed(0)
    net = make()
    if name == "maxima":  # a program gives features
        net = nn.Sequential(net, on_grid(nn.Linear(36, 5)))
    x_T = inputs(*shape)
    back = from_nir(to_nir(net, x_T), readout="sum")
    program = lower(back)
    frames = x_T.transpose(0, 1).reshape(3, 6, *program.input_shape)
    output_BK = run_reference(program, frames, frames=True).output
    assert torch.equal(output_BK, run(back, x_T))
    assert torch.equal(output_BK, run(net, x_T).sum(0))


def test_a_static_input_is_shown_as_often_as_the_model_says() -> None:
    model = catalogue_model("spiking_vgg").float()
    graph = to_nir(model)
    net, x = from_nir(graph), torch.randn(2, *model.example(1).tensor("image").shape[1:])
    assert torch.equal(run(net, x), run(net, x.expand(4, *x.shape)))
    assert net(x).shape == (4, 2, 5)
    for readout in ("mean", "sum", "last"):
        assert from_nir(graph, readout=readout)(x).shape == (2, 5)
    with pytest.raises(ShapeError, match=r"expected a floating-point tensor \[T, B, \*\[2, 8, 8\]\]"):
        net(torch.zeros(2, 2, 8, 9))


def test_it_can_be_trained() -> None:
    net, x_T = (
        from_nir(to_nir(convolutional(), torch.zeros(1, 1, 2, 6, 6)), surrogate="atan"),
        inputs(2, 6, 6),
    )
    net(x_T).sum().backward()
    weights = list(net.parameters())
    assert len(weights) == 4 and all(weight.grad.abs().sum() > 0 for weight in weights)
    again = from_nir(to_nir(convolutional(), torch.zeros(1, 1, 2, 6, 6)))
    again.load_state_dict(net.state_dict())


# Graphs of others.


def graph_of(*nodes: Any, shape: tuple[int, ...] = (3,), metadata: dict[str, Any] | None = None) -> Any:
    """Nodes one behind the other, unchecked."""
    names = ["in", *(f"n{number}" for number in range(len(nodes))), "out"]
    made = dict(zip(names, [nir.Input(np.array(shape)), *nodes, None], strict=True))
    made["out"] = nir.Output(np.array(shape))
    edges = [*itertools.pairwise(names)]
    return nir.NIRGraph(made, edges, metadata=metadata or {}, type_check=False)


def full(value: float, *shape: int) -> np.ndarray:
    return np.full(shape or (3,), value)


UNEVEN = np.array([1.5, 2.0, 4.0]) * DT
READ: list[tuple[Any, float | None]] = [
    (nir.LIF(tau=UNEVEN, r=full(2.5), v_leak=full(0.25), v_threshold=full(0.5), v_reset=full(-1.0)), None),
    (nir.LIF(tau=full(4e-3), r=full(1.0), v_leak=full(0.0), v_threshold=full(0.25)), 1e-3),
    (nir.IF(r=np.array([1e4, 5e3, 2e3]), v_threshold=full(0.75)), None),
    (nir.LI(tau=UNEVEN, r=full(1.0), v_leak=full(0.5)), None),
    (nir.I(r=full(3e3)), None),
    (nir.CubaLI(tau_syn=UNEVEN, tau_mem=full(2e-4), r=full(2.0), v_leak=full(0.125), w_in=full(3.0)), None),
    (
        nir.CubaLIF(
            tau_syn=full(2e-4), tau_mem=UNEVEN, r=full(1.0), v_leak=full(0.0), v_threshold=full(0.5), w_in=2.0
        ),
        None,
    ),
]


@pytest.mark.parametrize(("node", "dt"), READ, ids=[type(node).__name__ for node, _ in READ])
def test_neurons_are_read_by_their_equations(node: Any, dt: float | None) -> None:
    x_T = inputs(3, steps=30).double()
    y_T = run(from_nir(graph_of(node), dt=dt).double(), x_T)
    assert y_T.any()
    np.testing.assert_allclose(y_T.numpy(), euler(node, x_T.numpy(), dt or DT), rtol=1e-6, atol=1e-6)


def test_threshold_and_scale() -> None:
    x_T = inputs(3)
    threshold = np.array([0.5, 1.0, -0.25])
    net = from_nir(graph_of(nir.Threshold(threshold)))
    assert torch.equal(run(net, x_T), (x_T > torch.tensor(threshold)).float())
    net = from_nir(graph_of(nir.Threshold(threshold)), compare=">=")
    assert torch.equal(run(net, x_T), (x_T >= torch.tensor(threshold)).float())
    assert torch.equal(
        run(from_nir(graph_of(nir.Scale(threshold))), x_T), x_T * torch.tensor(threshold).float()
    )


def test_coefficients_that_differ_from_place_to_place() -> None:
    tau = np.linspace(1, 5, 12).reshape(3, 2, 2) * DT
    ones = np.ones_like(tau)
    node = nir.LIF(tau=tau, r=ones, v_leak=0 * ones, v_threshold=0.5 * ones)
    x_T = inputs(3, 2, 2, steps=20).double()
    net = from_nir(graph_of(node, shape=(3, 2, 2))).double()
    np.testing.assert_array_equal(run(net, x_T).numpy(), euler(node, x_T.numpy(), DT))
    assert torch.equal(stream(net).prefill(x_T)[0], run(net, x_T))


def test_layers() -> None:
    weight, bias = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32), np.ones(4, np.float32)
    node = nir.Conv1d(input_shape=5, weight=weight, stride=1, padding="same", dilation=1, groups=1, bias=bias)
    graph = graph_of(node, shape=(3, 5))
    graph.nodes["out"] = nir.Output(np.array([4, 5]))
    x_T = inputs(3, 5)
    expected = nn.functional.conv1d(x_T.flatten(0, 1), torch.tensor(weight), torch.tensor(bias), padding=1)
    torch.testing.assert_close(run(from_nir(graph), x_T).flatten(0, 1), expected)
    graph = graph_of(
        nir.SumPool2d(np.array([2, 2]), np.array(2), 0), nir.Flatten(None, 1, 2), shape=(3, 4, 4)
    )
    graph.nodes["out"] = nir.Output(np.array([3, 4]))
    x_T = inputs(3, 4, 4)
    expected = 4 * nn.functional.avg_pool2d(x_T.flatten(0, 1), 2).flatten(2)
    assert torch.equal(run(from_nir(graph), x_T).flatten(0, 1), expected)


def test_graphs_within_graphs() -> None:
    inner = to_nir(linear(LIF(), LIF()), torch.zeros(1, 1, 8))
    outer = nir.NIRGraph(
        {
            "in": nir.Input(np.array([8])),
            "inner": inner,
            "more": nir.Linear(np.eye(5, dtype=np.float32)),
            "out": nir.Output(np.array([5])),
        },
        [("in", "inner"), ("inner", "more"), ("more", "out")],
        type_check=False,
    )
    x_T = inputs(8)
    net = from_nir(outer)
    assert torch.equal(run(net, x_T), run(from_nir(inner), x_T))
    assert "inner.1" in net.keys


def test_names_that_modules_cannot_have() -> None:
    graph = to_nir(linear(LIF(), LIF()), torch.zeros(1, 1, 8))
    net = nn.Sequential()
    net.add_module("a/b", LIF())
    assert [*to_nir(net, torch.zeros(1, 1, 8)).nodes] == ["input", "a_b", "output"]
    renamed = dict(zip(graph.nodes, ["keys", "", "a.b", "a_b", "forward", "for"], strict=True))
    nodes = {renamed[name]: node for name, node in graph.nodes.items()}
    edges = [(renamed[start], renamed[end]) for start, end in graph.edges]
    x_T = inputs(8)
    other = nir.NIRGraph(nodes, edges, type_check=False)
    assert torch.equal(run(from_nir(other), x_T), run(from_nir(graph), x_T))


# What is refused.


class Product(nn.Module):
    def forward(self, x_T: Tensor) -> Tensor:
        return x_T * x_T


UNSAYABLE: list[tuple[nn.Module, tuple[int, ...], str]] = [
    (
        nn.Sequential(nn.Linear(8, 8), LIF(v_reset=None)),
        (8,),
        r"Sequential\.1: a soft reset has no form in NIR",
    ),
    (nn.Sequential(LIF(v_init=0.5)), (8,), r"Sequential\.0: NIR does not say what a membrane begins with"),
    (nn.Sequential(LeakyIntegrator(v_init=0.5)), (8,), "does not say what a membrane begins with"),
    (nn.Sequential(LIF(reset="next", v_reset=None)), (8,), "a reset one step later"),
    (
        nn.Sequential(AdaptiveLIF()),
        (8,),
        r"Sequential\.0 \(AdaptiveLIF\): .* what can be written: convolutions",
    ),
    (nn.Sequential(StochasticIF()), (8,), "chance"),
    (nn.Sequential(Product()), (8,), "a product of two values"),
    (nn.Sequential(nn.GELU(), LIF()), (8,), "gelu"),
    (nn.Sequential(Folded(nn.MaxPool2d(2)), LIF()), (2, 4, 4), "max pooling of anything but binary spikes"),
    (nn.Sequential(ILIF(), Folded(nn.MaxPool2d(2))), (2, 4, 4), "max pooling of anything but binary"),
    (
        nn.Sequential(LIF(), Folded(nn.AvgPool2d(3, 1, 1, count_include_pad=False))),
        (2, 4, 4),
        "leaves its padding out of the mean",
    ),
    (nn.Sequential(Folded(nn.Conv2d(2, 2, (3, 1)))), (2, 4, 4), r"a kernel \[3, 1\] is not square"),
    (nn.Sequential(CubaLIF(synapse_decay=1.0)), (8,), None),
]


@pytest.mark.parametrize(("net", "shape", "match"), UNSAYABLE, ids=[str(match) for *_, match in UNSAYABLE])
def test_what_nir_cannot_say(
    net: nn.Module, shape: tuple[int, ...], match: str | None, tmp_path: Path
) -> None:
    if match is None:  # an integrator in place of the synapse says it
        assert {"I", "LIF"} < {
            type(node).__name__ for node in to_nir(net, torch.zeros(1, 1, *shape)).nodes.values()
        }
        return
    with pytest.raises(UnsupportedError, match=match) as caught:
        write_nir(net, tmp_path / "net.nir", torch.zeros(1, 1, *shape))
    assert "\n" not in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_models_that_nir_cannot_say() -> None:
    with pytest.raises(
        UnsupportedError, match=r"attention: a product of spikes .* what can be written: convol"
    ):
        to_nir(
            neuromix.create_model("meta_spikeformer", **registry.entries("model")["meta_spikeformer"].tiny)
        )
    with pytest.raises(UnsupportedError, match=r"stages\.0\.0\.activate\.activation: a soft reset"):
        to_nir(neuromix.create_model("spiking_vgg_nano"))
    with pytest.raises(UnsupportedError, match=r"no form in NIR.* poolformer_nano has no spike time"):
        to_nir(neuromix.create_model("poolformer_nano"))


def test_examples_that_do_not_fit() -> None:
    net = linear(LIF(), LIF())
    with pytest.raises(
        ShapeError, match=r"Sequential: an example of its input, x_T \[T, B, ...\], is needed"
    ):
        to_nir(net)
    with pytest.raises(ShapeError, match=r"got \[8, 2\] behind T and B"):
        to_nir(net, torch.zeros(1, 1, 8, 2))
    with pytest.raises(NeuromixError):
        to_nir(net, torch.zeros(1, 1, 7))
    with pytest.raises(ShapeError, match="C, H, W"):
        to_nir(catalogue_model("spiking_vgg"), torch.zeros(8, 8))


def small() -> Any:
    return to_nir(convolutional(), torch.zeros(1, 1, 2, 6, 6))


def with_node(name: str, **fields: Any) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        for field, value in fields.items():
            setattr(graph.nodes[name], field, value)

    return change


def with_edges(*edges: tuple[str, str]) -> Callable[[Any], None]:
    return lambda graph: graph.edges.extend(edges)


class Resonator:
    """A node that NIR does not have, and a later one may."""


def in_place_of(name: str, node: Any) -> Callable[[Any], None]:
    return lambda graph: graph.nodes.update({name: node})


NAN = np.full((4, 6, 6), math.nan)
DAMAGED: list[tuple[str, Callable[[Any], Any], type[NeuromixError], str]] = [
    (
        "cycle",
        with_edges(("5", "4")),
        UnsupportedError,
        r"recurrent graph .*'4' -> '5' -> '4'|'5' -> '4' -> '5'",
    ),
    ("self", with_edges(("1", "1")), UnsupportedError, "recurrent graph"),
    ("no node", with_edges(("1", "gone")), CheckpointError, "names 'gone', which is no node"),
    ("twice", with_edges(("0.module", "1")), CheckpointError, "'0.module' -> '1' is there twice"),
    ("no edge", lambda g: g.edges.remove(("1", "2.module")), CheckpointError, "'2.module' has no edge"),
    ("no input", lambda g: g.nodes.pop("input"), UnsupportedError, "one node Input, got none"),
    ("two inputs", in_place_of("more", nir.Input(np.array([2]))), UnsupportedError, "one node Input, got 2"),
    ("no output", lambda g: g.nodes.pop("output"), UnsupportedError, "one node Output, got none"),
    (
        "unlike sum",
        with_edges(("input", "4")),
        CheckpointError,
        r"unlike shapes: '4.flatten' \[36\], 'input'",
    ),
    (
        "unknown node",
        in_place_of("5", Resonator()),
        UnsupportedError,
        "'5' is a Resonator.* known: Affine, Linear",
    ),
    ("nothing", in_place_of("5", None), UnsupportedError, "'5' is a NoneType, which has no form"),
    ("NaN", with_node("1", tau=NAN), CheckpointError, r"'1' \(LIF\): tau holds NaN"),
    ("zero tau", with_node("1", tau=0 * NAN.clip(0, 0)), CheckpointError, "tau"),
    (
        "short tau",
        with_node("1", tau=np.full((4, 6, 6), 1e-5)),
        CheckpointError,
        "shorter than the time step",
    ),
    ("text", with_node("1", r=np.array(["a"])), CheckpointError, "r must hold real numbers"),
    (
        "shape",
        with_node("1", r=np.ones((4, 6))),
        CheckpointError,
        r"r must be \[4, 6, 6\], as its input, got",
    ),
    ("reset", with_node("5", v_reset=np.arange(5.0)), UnsupportedError, "v_reset must be one number"),
    (
        "weight",
        with_node("4", weight=np.ones((5, 35))),
        CheckpointError,
        r"its weight \[5, 35\] reads \[35\]",
    ),
    ("axes", with_node("4", weight=np.ones((5, 6, 6))), CheckpointError, "weight must have 2 axes"),
    ("bias", with_node("4", bias=np.ones(4)), CheckpointError, r"bias must be \[5\]"),
    (
        "channels",
        with_node("0.module", weight=np.ones((4, 3, 3, 3))),
        CheckpointError,
        "reads 3 channels, got 2",
    ),
    ("groups", with_node("0.module", groups=3), CheckpointError, "in 3 groups"),
    (
        "stride",
        with_node("0.module", stride=(0, 1)),
        CheckpointError,
        "stride must be 2 whole numbers from 1",
    ),
    ("half", with_node("0.module", stride=(1.5, 1)), CheckpointError, "stride must be 2 whole numbers"),
    ("padding", with_node("0.module", padding="round"), CheckpointError, "padding 'round'"),
    ("huge", with_node("0.module", padding=(10**12, 0)), CheckpointError, "padding is at most"),
    ("large", with_node("0.module", padding=(60000, 60000)), CheckpointError, "at most 268435456 elements"),
    ("window", with_node("2.module", kernel_size=(7, 7)), CheckpointError, "larger than the padded input"),
    ("half pool", with_node("2.module", padding=(2, 2)), CheckpointError, "padding is at most half"),
    ("flatten", with_node("4.flatten", start_dim=5), CheckpointError, "start_dim 5"),
    (
        "output",
        in_place_of("output", nir.Output(np.array([6]))),
        CheckpointError,
        r"declares \[6\], and reads \[5\]",
    ),
    (
        "input",
        in_place_of("input", nir.Input(np.array([3, 6, 6]))),
        CheckpointError,
        "reads 2 channels, got 3",
    ),
    ("negative", in_place_of("input", nir.Input(np.array([-2, 6, 6]))), CheckpointError, r"\[-2, 6, 6\]"),
    ("no shape", in_place_of("input", nir.Input(None)), CheckpointError, "must have a shape"),
    ("dt", lambda g: g.metadata.update(dt=math.nan), ConfigError, "dt must be a positive number"),
    (
        "steps",
        lambda g: g.metadata.update(time_steps=10**9),
        ConfigError,
        "time_steps must be .* up to 65536",
    ),
]


@pytest.mark.parametrize(("damage", "error", "match"), [c[1:] for c in DAMAGED], ids=[c[0] for c in DAMAGED])
def test_damaged_graphs(damage: Callable[[Any], Any], error: type[NeuromixError], match: str) -> None:
    graph = small()
    damage(graph)
    with pytest.raises(error, match=match) as caught:
        from_nir(graph)
    assert "\n" not in str(caught.value)


def test_wrong_options() -> None:
    graph = small()
    with pytest.raises(ConfigError, match="compare must be > or >=, got '<'"):
        from_nir(graph, compare="<")
    with pytest.raises(ConfigError, match="readout must be"):
        from_nir(graph, readout="max")
    with pytest.raises(ConfigError, match="dt must be"):
        from_nir(graph, dt=-1.0)
    with pytest.raises(ConfigError, match="got a LIF"):
        from_nir(graph.nodes["1"])
    with pytest.raises(NeuromixError, match="surrogate"):
        from_nir(graph, surrogate="nothing")


# Files.


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    with pytest.raises(CheckpointError, match="no NIR file at"):
        from_nir(path)
    with pytest.raises(CheckpointError, match="no NIR file at"):
        from_nir(tmp_path)
    path.write_text("text")
    with pytest.raises(CheckpointError, match=r"net\.nir is damaged or no NIR file"):
        from_nir(path)
    write_nir(convolutional(), path, torch.zeros(1, 1, 2, 6, 6))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"net\.nir is damaged or no NIR file") as caught:
        from_nir(path)
    assert "\n" not in str(caught.value)
    with h5py.File(path, "w") as file:
        file["something"] = 1
    with pytest.raises(CheckpointError, match="is damaged or no NIR file"):
        from_nir(path)
    nir.write(path, nir.LI(tau=full(1.0), r=full(1.0), v_leak=full(0.0)))
    with pytest.raises(CheckpointError, match="a single LI, not a graph"):
        from_nir(path)


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """A good file, open to be spoilt."""
    path = tmp_path / "net.nir"
    write_nir(convolutional(), path, torch.zeros(1, 1, 2, 6, 6))
    with h5py.File(path, "r+") as file:
        yield file


def spoilt(file: Any, error: type[NeuromixError], match: str) -> None:
    path = file.filename
    file.close()
    with pytest.raises(error, match=match) as caught:
        from_nir(path)
    assert "\n" not in str(caught.value)


def test_a_file_with_an_unknown_node(opened: Any) -> None:
    del opened["node/nodes/1/type"]
    opened["node/nodes/1/type"] = "Osmosis"
    spoilt(opened, UnsupportedError, r"'/node/nodes/1' is a 'Osmosis', unknown to NIR")


def test_a_file_with_unknown_fields(opened: Any) -> None:
    opened["node/nodes/1/colour"] = 1.0
    spoilt(opened, CheckpointError, "damaged or no NIR file: .*colour")


def test_a_file_that_points_elsewhere(opened: Any, tmp_path: Path) -> None:
    del opened["node/nodes/4/weight"]
    opened["node/nodes/4/weight"] = h5py.ExternalLink("/other.h5", "/x")
    spoilt(opened, CheckpointError, "'/node/nodes/4/weight' is a link to elsewhere")


def test_a_file_whose_numbers_are_another_file_s(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"1" * 720)
    del opened["node/nodes/4/weight"]
    external = [(str(tmp_path / "secret"), 0, 720)]
    opened["node/nodes/4"].create_dataset("weight", (5, 36), "f4", external=external)
    spoilt(opened, CheckpointError, "'/node/nodes/4/weight' are in another file")


def test_a_file_that_unpacks_to_no_end(opened: Any) -> None:
    del opened["node/nodes/4/weight"]
    opened["node/nodes/4"].create_dataset("weight", (2**20, 2**20), "f4", chunks=(1024, 1024))
    spoilt(opened, CheckpointError, "more than 8589934592 bytes")


def test_a_file_that_contains_itself(opened: Any) -> None:
    opened["node/nodes/again"] = opened["node"]
    spoilt(opened, CheckpointError, "nest more than 32 deep")


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.nir"
    path.write_text("the one before")
    monkeypatch.setattr(nir_writer, "_fires_above", lambda node: 0.5 * node["threshold"])
    with pytest.raises(RunError, match=r"is not written, as the graph gives other numbers .*% of the spikes"):
        write_nir(convolutional(), path, torch.zeros(1, 1, 2, 6, 6))
    assert path.read_text() == "the one before"
    assert [*tmp_path.iterdir()] == [path]
    with pytest.raises(RunError, match="cannot write"):
        write_nir(residual(), path / "net.nir", torch.zeros(1, 1, 2, 6, 6))


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nir_file.importlib.util, "find_spec", lambda name: None)
    for call in (lambda: to_nir(LIF(), torch.zeros(1, 1, 2)), lambda: from_nir("net.nir")):
        with pytest.raises(MissingExtraError, match=r'pip install "neuromix\[export\]"'):
            call()


# The command.

TINY = (
    "spiking_vgg",
    *("--set", 'layers=[4,"A",8,"A"]', "--set", "map_side=2", "--set", "time_steps=3"),
    *("--set", "activation.v_reset=0.0", "--set", "activation.v_threshold=0.3"),
)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.nir"
    assert main(["export", *TINY, "--to", "nir", "-o", str(path), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["file"] == str(path) and about["bytes"] == path.stat().st_size
    assert about["operations"]["LIF"] == 2 and about["nodes"] == sum(about["operations"].values())
    assert (about["input"], about["time_steps"], about["dt"]) == ([2, 8, 8], 3, 1e-4)
    assert about["spikes"] > 0 and about["flipped_spikes"] == 0 and about["difference"] < 1e-5
    assert from_nir(path, readout="mean")(torch.zeros(1, 2, 8, 8)).shape == (1, 10)
    assert main(["export", *TINY, "--to", "nir", "-o", str(path), "--input", "2,12,12"]) == 0
    out = capsys.readouterr().out
    assert "operations" in out and "2 LIF" in out and "flipped spikes" in out


WRONG = [
    (["meta_spikeformer_nano"], "attention: a product of spikes has no form in NIR"),
    (["spiking_vgg_nano"], "a soft reset has no form in NIR"),
    (["poolformer_nano"], "has no spike time to step along"),
    ([*TINY, "--quantize", "int8"], "a nir file keeps its weights in float32"),
    ([*TINY, "--input", "2,8"], "--input gives C,H,W"),
    ([*TINY, "--input", "3,8,8"], "expected a floating-point tensor [B, 2, H, W]"),
    ([*TINY, "-o", "."], "cannot write ."),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message for _, message in WRONG])
def test_mistakes_of_the_command(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments, "--to", "nir"]) == 2
    out, err = capsys.readouterr()
    assert not out and message in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")
    assert not [*tmp_path.iterdir()]
