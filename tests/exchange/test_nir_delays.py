"""Synapses with delays as graphs of NIR, against a simulation that knows nothing of kernels, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import neuromix
from neuromix.cli import main
from neuromix.core.edits import apply_edit
from neuromix.core.stream import stream
from neuromix.exchange.nir import from_nir, to_nir, write_nir
from neuromix.layers.delay import Delay, DelayedSum, DiscreteDelay
from neuromix.models.audio.dcls import DCLS
from neuromix.neurons import LIF
from tests.exchange.nir_nets import grid

nir = pytest.importorskip("nir")
STEPS, BATCH = 11, 3
CONFIG = {"in_channels": 6, "hidden": (8, 7), "num_classes": 3, "max_delay": 7, "dropout": 0.3}


def dcls(**options: Any) -> DCLS:
    """A small net with statistics as after some training, in eval mode."""
    torch.manual_seed(0)
    model = neuromix.create_model("dcls", **{**CONFIG, **options})
    assert isinstance(model, DCLS)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0.6, 0.3)
    return model.eval()


def x_TBN(channels: int = 6) -> Tensor:
    shape = (STEPS, BATCH, channels)
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(1)).float()


def discrete(
    weight: Tensor, delay: Tensor, max_delay: int, tail: int | None, bias: Tensor | None = None
) -> DiscreteDelay:
    """A layer of [O, I, K] weights and delays."""
    outputs, inputs, synapses = weight.shape
    layer = DiscreteDelay(inputs, outputs, max_delay, synapses, bias is not None, tail)
    layer.weight.data, layer.delay = weight, delay
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def run(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)


# The simulation: every input goes to where it is due, spike by spike.


def sent(layer: DelayedSum, x_TBI: NDArray[Any]) -> NDArray[Any]:
    """What arrives at each output, [T + tail, B, O]."""
    delay_OIK, weight_OIK = layer.delay.numpy(), layer.weight.detach().double().numpy()
    y_TBO = np.zeros((len(x_TBI) + layer.tail, x_TBI.shape[1], len(weight_OIK)))
    for t, x_BI in enumerate(x_TBI):
        for place, delay in np.ndenumerate(delay_OIK):
            if t + delay < len(y_TBO):
                y_TBO[t + delay, :, place[0]] += weight_OIK[place] * x_BI[:, place[1]]
    return y_TBO if layer.bias is None else y_TBO + layer.bias.detach().double().numpy()


def membranes(x_TBC: NDArray[Any], decay: float, fires: bool) -> NDArray[Any]:
    """Spikes of LIF with threshold 1 that are reset to 0, or membranes that never fire."""
    v_BC, outputs = np.zeros(x_TBC.shape[1:]), []
    for x_BC in x_TBC:
        v_BC = decay * v_BC + x_BC
        outputs.append((v_BC >= 1).astype(float) if fires else v_BC)
        v_BC = np.where(v_BC >= 1, 0.0, v_BC) if fires else v_BC
    return np.stack(outputs)


def simulated(model: DCLS, x: Tensor) -> list[NDArray[Any]]:
    """Spikes of each hidden layer, and the membranes of the last one."""
    values, y, decay = [], x.double().numpy(), 1 - 1 / model.config.neuron.options["tau"]
    for block in model.blocks:
        norm = block.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        normed = (
            sent(block.delay, y) - norm.running_mean.numpy()
        ) * scale.detach().numpy() + norm.bias.detach().numpy()
        values.append(y := membranes(normed, decay, fires=True))
    return [*values, membranes(sent(model.head.delay, y), decay, fires=False)]


@pytest.mark.parametrize("synapses", [1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"bias": True, "tail": 1}, {"tail": 0}, {"learn_delays": False}], ids=str
)
def test_a_file_does_what_the_delays_say(synapses: int, options: dict[str, Any], tmp_path: Path) -> None:
    model, x = dcls(synapses=synapses, **options), x_TBN()
    made = write_nir(model, tmp_path / "net.nir")
    assert made.comparison is not None
    assert made.comparison.spikes > 0 and made.comparison.flipped == 0 and made.input_shape == (6,)
    net, seen = from_nir(tmp_path / "net.nir"), {}
    for name in ("blocks.0.neuron", "blocks.1.neuron"):
        net.nodes[net.keys[name]].register_forward_hook(lambda *call, name=name: seen.update({name: call[2]}))
    actual = run(net, x)
    *spikes, expected = simulated(model, x)
    for one, other in zip(spikes, seen.values(), strict=True):
        assert 0.05 < one.mean() < 0.95 and np.array_equal(one, other.numpy())
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actual, run(model.forward_steps, x), rtol=1e-4, atol=1e-5)


def test_an_edited_net_is_written_the_same() -> None:
    model = dcls(synapses=2)
    edited = apply_edit(apply_edit(model, "fuse"), "discretise")
    torch.testing.assert_close(run(from_nir(to_nir(edited)), x_TBN()), run(from_nir(to_nir(model)), x_TBN()))
    assert isinstance(model.blocks[0].delay, Delay) and isinstance(model.blocks[0].norm, nn.BatchNorm1d)


def test_step_by_step_with_what_is_late() -> None:
    model, x = dcls().double(), x_TBN().double()
    net = from_nir(to_nir(model)).double()
    expected = run(net, x)
    assert len(expected) == STEPS + 3 * 3
    with torch.no_grad():
        session = stream(net).session()
        steps = torch.stack([session.step(x_BN) for x_BN in x])
        late = session.drain()
        torch.testing.assert_close(torch.cat([steps, late]), expected)
        session.select(torch.tensor([2]))
        torch.testing.assert_close(session.drain(), late[:, 2:])
        first, state = stream(net).prefill(x[:4])
        then, state = stream(net).prefill(x[4:], state)
        torch.testing.assert_close(torch.cat([first, then]), steps)
    torch.testing.assert_close(torch.cat([steps, late]), run(model.forward_steps, x), rtol=1e-5, atol=1e-6)


# What is written.


def test_a_delay_in_front_of_each_layer() -> None:
    weight_OIK = torch.tensor([[[0.5], [2.0]], [[0.25], [4.0]]])
    layer = discrete(weight_OIK, torch.tensor([[[0], [3]], [[3], [3]]]), 5, None)
    graph = to_nir(nn.Sequential(layer, LIF()), torch.zeros(1, 1, 2), dt=1e-3)
    nodes = graph.nodes
    np.testing.assert_allclose(nodes["0.steps_0.delay"].delay, [0, 0])
    np.testing.assert_allclose(nodes["0.steps_3.delay"].delay, [3e-3, 3e-3])
    np.testing.assert_array_equal(nodes["0.steps_0"].weight, [[0.5, 0], [0, 0]])
    np.testing.assert_array_equal(nodes["0.steps_3"].weight, [[0, 2], [0.25, 4]])
    assert set(graph.edges) == {
        ("input", "0.steps_0.delay"),
        ("input", "0.steps_3.delay"),
        ("0.steps_0.delay", "0.steps_0"),
        ("0.steps_3.delay", "0.steps_3"),
        ("0.steps_0", "1"),
        ("0.steps_3", "1"),
        ("1", "output"),
    }
    assert json.loads(graph.metadata["tails"]) == {"0.steps_0.delay": 2, "0.steps_3.delay": 2}


def test_without_delays_there_is_no_node_for_them() -> None:
    model = dcls(max_delay=1)
    graph = to_nir(model)
    assert (
        not any(isinstance(node, nir.Delay) for node in graph.nodes.values())
        and "tails" not in graph.metadata
    )
    torch.testing.assert_close(
        run(from_nir(graph), x_TBN()), run(model.forward_steps, x_TBN()), rtol=1e-4, atol=1e-5
    )


def test_readout() -> None:
    assert to_nir(dcls()).metadata["readout"] == "softmax-sum"
    model = dcls(readout="mean")
    graph = to_nir(model)
    assert graph.metadata["readout"] == "mean"
    torch.testing.assert_close(
        run(from_nir(graph, readout="mean"), x_TBN()), run(model, x_TBN()), rtol=1e-4, atol=1e-5
    )


@st.composite
def layers(draw: st.DrawFn) -> tuple[DiscreteDelay, float]:
    side = st.integers(1, 4)
    shape, max_delay = (draw(side), draw(side), draw(side)), 2 * draw(st.integers(0, 4)) + 1
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    delay = torch.randint(0, max_delay, shape, generator=generator)
    tail = draw(st.none() | st.integers(0, 6))
    bias = grid(shape[:1], generator) if draw(st.booleans()) else None
    return discrete(grid(shape, generator), delay, max_delay, tail, bias), draw(
        st.sampled_from([1e-4, 1e-3, 0.7, 3.0])
    )


@given(layers())
@settings(max_examples=25, deadline=None)
def test_any_layer_there_and_back(case: tuple[DiscreteDelay, float]) -> None:
    layer, dt = case
    x = grid((5, 2, layer.in_channels), torch.Generator().manual_seed(0))
    net = from_nir(to_nir(layer, x, dt=dt))
    assert torch.equal(run(net, x), run(layer, x))
    np.testing.assert_array_equal(run(net, x).numpy(), sent(layer, x.numpy()))
    again = to_nir(net, dt=dt)  # as many nodes: a Delay is written as the Delay that it was
    assert len(again.nodes) == len(to_nir(layer, x, dt=dt).nodes)
    assert torch.equal(run(from_nir(again), x), run(layer, x))


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_T: Tensor) -> Tensor:
        y_T: Tensor = self.layer(self.layer(x_T))
        return y_T


def test_a_layer_that_is_used_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (4, 4, 2)
    net = Twice(discrete(grid(shape, generator), torch.randint(0, 5, shape, generator=generator), 5, None))
    x = grid((5, 2, 4), generator)
    assert torch.equal(run(from_nir(to_nir(net, x)), x), run(net, x))


def test_without_its_metadata_a_graph_is_the_same_until_the_first_layer_ends() -> None:
    """A tool that is not told where layers end: it is shown zeros, and layers go on."""
    model, tail = dcls(), 3
    graph = to_nir(model)
    del graph.metadata["tails"]
    net, x = from_nir(graph), x_TBN()
    assert run(net, x).shape == (STEPS, BATCH, 3)
    silence = torch.zeros(3 * tail, BATCH, 6)
    actual, expected = run(net, torch.cat([x, silence])), run(model.forward_steps, x)
    assert actual.shape == expected.shape
    same = STEPS + tail
    torch.testing.assert_close(actual[:same], expected[:same], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(actual[same:], expected[same:], atol=1e-2)


# The command.


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = dcls(synapses=2)
    neuromix.save_checkpoint(model, "net.safetensors")
    assert main(["export", "net.safetensors", "--to", "nir", "-o", "net.nir", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (
        about["operations"]["LIF"] == 2
        and about["operations"]["Delay"] == 21
        and about["flipped_spikes"] == 0
    )
    torch.testing.assert_close(
        run(from_nir("net.nir"), x_TBN()), run(model.forward_steps, x_TBN()), rtol=1e-4, atol=1e-5
    )
    for extra, message in (
        (["--to", "nir", "--set", "round_delays=false"], "round them with --set round_delays=true"),
        (["--to", "nir", "--input", "6,1,1"], "one step is features [F] or a map"),
        (["--to", "onnx"], "dcls takes audio"),
        (["--to", "nmx"], "dcls takes audio"),
    ):
        assert main(["export", "net.safetensors", "-o", "other", *extra]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert not Path("other").exists()


@pytest.mark.slow
def test_command_on_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = str(tmp_path / "run"), str(tmp_path / "net.nir")
    train = [
        "train",
        "--task",
        "audio",
        "--data",
        "lags",
        "--model",
        "dcls_lags",
        "--epochs",
        "1",
        "--out",
        folder,
    ]
    assert main(train) == 0
    capsys.readouterr()
    assert main(["export", folder, "--to", "nir", "-o", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input"] == [2]
    assert main(["export", folder, "--to", "onnx", "-o", path]) == 2
    assert "the task gives" in capsys.readouterr().err.splitlines()[-1]
