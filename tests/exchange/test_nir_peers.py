"""Round trips through NIR with the tools of others: the same spikes, or what each does otherwise.

All numbers lie on a grid (`nir_nets`), so that nothing but the definition of the neuron decides.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuromix.cli import main
from neuromix.core import registry
from neuromix.core.checkpoint import load_checkpoint
from neuromix.core.errors import CheckpointError
from neuromix.exchange.nir import from_nir, to_nir, write_nir
from neuromix.neurons import IF, LIF, CubaLIF
from neuromix.training.run_folder import RunFolder
from tests.exchange.nir_nets import (
    CATALOGUE,
    catalogue_model,
    convolutional,
    inputs,
    linear,
    on_grid,
    residual,
)

nir = pytest.importorskip("nir")
pytest.importorskip("nirtorch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
DT = 1e-4


@pytest.fixture(autouse=True)
def quiet(caplog):
    """The tools tell of their own affairs."""
    caplog.set_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def by_spikingjelly(graph: Any, x_T: Tensor) -> Tensor:
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    net = exchange.import_from_nir(graph, dt=DT, step_mode="m", dtype=x_T.dtype)
    return net(x_T)[0].detach()


def by_norse(graph: Any, x_T: Tensor) -> Tensor:
    norse = pytest.importorskip("norse.torch")
    return one_by_one(lambda: norse.from_nir(graph, dt=DT), x_T)


def by_snntorch(graph: Any, x_T: Tensor) -> Tensor:
    module = pytest.importorskip("snntorch.import_nir")
    return one_by_one(lambda: module.import_from_nir(graph), x_T)


def one_by_one(make: Callable[[], nn.Module], x_T: Tensor) -> Tensor:
    """Sample by sample, as these two flatten a batch axis as well; a new net for each, as snnTorch's keeps state."""
    outputs = []
    for x in x_T.unbind(1):
        net, state, steps = make(), None, []
        for x_t in x.unbind(0):
            y_t, state = net(x_t, state)
            steps.append(y_t.detach())
        outputs.append(torch.stack(steps))
    return torch.stack(outputs, 1)


ALL = (by_spikingjelly, by_norse, by_snntorch)
OURS = {  # network, shape of its input, and who gives its spikes
    "convolutional": (convolutional, (2, 6, 6), (by_spikingjelly, by_snntorch)),
    "residual": (residual, (2, 6, 6), ALL),
    "linear": (lambda: linear(LIF(), LIF(tau=4.0)), (8,), ALL),
    "above": (lambda: linear(LIF(compare=">"), LIF(compare=">")), (8,), (by_norse, by_snntorch)),
    "threshold": (lambda: linear(LIF(v_threshold=0.5), LIF(fire_at=0.75)), (8,), ALL),
    "whole input": (
        lambda: linear(LIF(decay_input=False), LIF(tau=4.0, decay_input=False)),
        (8,),
        (by_spikingjelly, by_snntorch),
    ),
    "reset below": (lambda: linear(LIF(v_reset=-0.5), LIF(v_reset=-0.25)), (8,), (by_spikingjelly,)),
    "no leak": (lambda: linear(IF(), IF(v_threshold=2.0)), (8,), (by_spikingjelly, by_norse)),
    "synapse": (lambda: linear(CubaLIF(), CubaLIF(tau=4.0, synapse_decay=0.75)), (8,), ALL),
}


@pytest.mark.parametrize(
    ("name", "run"),
    [(name, run) for name, (_, _, runs) in OURS.items() for run in runs],
    ids=lambda case: getattr(case, "__name__", case),
)
def test_ours_there(name: str, run: Callable[[Any, Tensor], Tensor], tmp_path) -> None:
    make, shape, _ = OURS[name]
    net, x_T = make(), inputs(*shape)
    with torch.no_grad():
        expected_T = net(x_T)
    assert 0.02 < expected_T.mean() < 0.9
    write_nir(net, tmp_path / "net.nir", x_T)
    for graph in (to_nir(net, x_T), nir.read(tmp_path / "net.nir")):
        assert torch.equal(run(graph, x_T), expected_T)


def differs(run: Callable[[Any, Tensor], Tensor], net: nn.Module, *shape: int) -> bool:
    x_T = inputs(*shape, steps=24)
    with torch.no_grad():
        return not torch.equal(run(to_nir(net, x_T), x_T), net(x_T))


def fails_or_differs(run: Callable[[Any, Tensor], Tensor], net: nn.Module, *shape: int) -> bool:
    """A graph that falls apart is run from one of its parts, whichever comes first in a set."""
    try:
        return differs(run, net, *shape)
    except RuntimeError:
        return True


def test_what_they_do_otherwise() -> None:
    """What docs/deploying.md says of them."""
    assert differs(by_spikingjelly, nn.Sequential(LIF(compare=">")), 8), "it fires at the threshold"
    below = nn.Sequential(LIF(v_reset=-0.5))
    assert differs(by_norse, below, 8), "it resets to 0"
    assert differs(by_norse, nn.Sequential(LIF(decay_input=False)), 8), "it takes r for 1"
    assert fails_or_differs(by_norse, convolutional(), 2, 6, 6), "it leaves average pooling out"
    with pytest.raises(AssertionError, match="v_leak not supported"):
        differs(by_snntorch, below, 8)
    with pytest.raises(AssertionError, match="r != 1 not supported"):
        differs(by_snntorch, linear(IF(), IF()), 8)
    uneven = linear(LIF(channels=16, learnable=["v_threshold"]), LIF())
    nn.init.uniform_(uneven[1].v_threshold)
    with pytest.raises(ValueError, match="must be uniform"):
        differs(by_spikingjelly, uneven, 8)


def test_what_they_write_is_something_else() -> None:
    """The same page again: Norse's neuron with a current, and snnTorch's with its default reset."""
    norse, snn = pytest.importorskip("norse.torch"), pytest.importorskip("snntorch")
    x_T = inputs(5, batch=1, steps=24)
    tau_inv = {"tau_mem_inv": torch.tensor(500.0), "tau_syn_inv": torch.tensor(500.0)}
    net = nn.Sequential(on_grid(nn.Linear(5, 8)), norse.LIFCell(norse.LIFParameters(**tau_inv)))
    graph = norse.to_nir(norse.SequentialState(*net), x_T[0, 0])
    state, steps = None, []
    for x_t in x_T[:, 0]:
        y_t, state = net[1](net[0](x_t), state)
        steps.append(y_t.detach())
    assert torch.stack(steps).any()
    assert not torch.equal(from_nir(graph, dt=1e-6)(x_T)[:, 0], torch.stack(steps))

    exchange, utils = pytest.importorskip("snntorch.export_nir"), pytest.importorskip("snntorch.utils")
    ones = torch.ones(8)
    net = nn.Sequential(nn.Linear(5, 8), snn.Leaky(beta=0.5 * ones, threshold=ones, init_hidden=True))
    graph = exchange.export_to_nir(on_grid(net), x_T[0], ignore_dims=[0])
    utils.reset(net)
    expected_T = torch.stack([net(x_t) for x_t in x_T]).detach()
    assert not torch.equal(from_nir(graph)(x_T), expected_T)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("run", [by_spikingjelly])
def test_models_of_the_catalogue(name: str, run: Callable[[Any, Tensor], Tensor]) -> None:
    """In float64, where no rounding comes near a threshold; logits are equal only if all spikes are."""
    model = catalogue_model(name)
    x_TBCHW = 4 * torch.randn(4, 2, *model.example(1).tensor("image").shape[1:], dtype=torch.float64)
    with torch.no_grad():
        expected_BK = model(x_TBCHW)
    actual_BK = run(to_nir(model), x_TBCHW).mean(0)
    assert len(expected_BK.unique()) == expected_BK.numel()
    torch.testing.assert_close(actual_BK, expected_BK, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_trained_network_there(tmp_path: Path) -> None:
    """Trained on digits, written, and read by SpikingJelly: the same logits of test images."""
    run = str(tmp_path / "run")
    options = ["--set", "activation.v_reset=0.0", "--set", "train.max_steps=60", "--out", run]
    assert main(["train", "--task", "digits", "--model", "spiking_vgg_nano", *options]) == 0
    assert main(["export", run, "--to", "nir", "-o", str(tmp_path / "net.nir")]) == 0
    data = registry.build("task", "digits").data("test")
    image_BCHW = torch.stack([data.sample(index, torch.Generator())["image"] for index in range(64)]).double()
    model = load_checkpoint(RunFolder(Path(run)).weights).double().eval()
    with torch.no_grad():
        expected_BK = model(image_BCHW)
    actual_BK = by_spikingjelly(str(tmp_path / "net.nir"), image_BCHW.expand(4, *image_BCHW.shape)).mean(0)
    torch.testing.assert_close(actual_BK, expected_BK, rtol=1e-5, atol=1e-6)
    labels = torch.tensor([int(data.sample(index, torch.Generator())["label"]) for index in range(64)])
    assert (actual_BK.argmax(1) == labels).double().mean() > 0.5


class JellyResidual(nn.Module):
    """A residual net of SpikingJelly."""

    def __init__(self, layer: Any, neuron: Any) -> None:
        super().__init__()
        self.a, self.b = layer.Conv2d(2, 4, 3, padding=1), layer.Conv2d(4, 4, 3, padding=1)
        self.first, self.second = neuron.LIFNode(), neuron.LIFNode(tau=4.0, v_reset=-0.5)

    def forward(self, x_T: Tensor) -> Tensor:
        y_T: Tensor = self.first(self.a(x_T))
        return self.second(self.b(y_T) + y_T)


@pytest.mark.parametrize("kind", ["layers", "residual"])
def test_spikingjelly_here(kind: str) -> None:
    activation_based = pytest.importorskip("spikingjelly.activation_based")
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    layer, neuron, functional = (getattr(activation_based, n) for n in ("layer", "neuron", "functional"))
    net = JellyResidual(layer, neuron)
    if kind == "layers":
        net = nn.Sequential(
            layer.Conv2d(2, 4, 3, padding=1, bias=False),
            neuron.IFNode(),
            layer.AvgPool2d(2),
            layer.Flatten(),
            layer.Linear(36, 8),
            neuron.LIFNode(decay_input=False),
            layer.Linear(8, 5),
            neuron.CUBALIFNode(c_decay=0.5, v_decay=0.5, v_reset=0.0),
        )
    functional.set_step_mode(on_grid(net), "m")
    x_T = inputs(2, 6, 6)
    graph = exchange.export_to_nir(net, x_T)
    functional.reset_net(net)
    expected_T = net(x_T).detach()
    assert 0.02 < expected_T.mean() < 0.9
    assert torch.equal(from_nir(graph, compare=">=")(x_T), expected_T)
    assert not torch.equal(from_nir(graph)(x_T), expected_T), "potentials do meet the threshold"


@pytest.mark.parametrize("kind", ["linear", "convolutional"])
def test_snntorch_here(kind: str) -> None:
    snn = pytest.importorskip("snntorch")
    exchange, utils = pytest.importorskip("snntorch.export_nir"), pytest.importorskip("snntorch.utils")
    options = {"init_hidden": True, "reset_mechanism": "zero", "reset_delay": False}

    def leaky(*shape: int, beta: float) -> nn.Module:
        ones = torch.ones(shape)
        return snn.Leaky(beta=beta * ones, threshold=ones, **options)

    if kind == "linear":
        ones, shape = torch.ones(5), (8,)
        last = snn.Synaptic(alpha=0.5 * ones, beta=0.75 * ones, threshold=ones, **options)
        net = nn.Sequential(nn.Linear(8, 16), leaky(16, beta=0.5), nn.Linear(16, 5), last)
    else:
        shape = (2, 6, 6)
        first, last = leaky(4, 6, 6, beta=0.5), leaky(5, beta=0.75)
        layers = (
            nn.Conv2d(2, 4, 3, padding=1),
            first,
            nn.AvgPool2d(2),
            nn.Flatten(1),
            nn.Linear(36, 5),
            last,
        )
        net = nn.Sequential(*layers)
    on_grid(net)
    x_T = inputs(*shape, batch=1, steps=24)
    graph = exchange.export_to_nir(net, x_T[0], ignore_dims=[0])
    utils.reset(net)
    expected_T = torch.stack([net(x_t) for x_t in x_T]).detach()
    assert 0.02 < expected_T.mean() < 0.9
    assert torch.equal(from_nir(graph)(x_T), expected_T)
    if kind == "convolutional":  # in which potentials meet the threshold
        assert not torch.equal(from_nir(graph, compare=">=")(x_T), expected_T)


@pytest.mark.parametrize("kind", ["linear", "convolutional", "no leak"])
def test_norse_here(kind: str) -> None:
    """Its LIF is written with tau in units of its own time step, 1 ms; its IAF with r = 1 a step."""
    norse = pytest.importorskip("norse.torch")

    def box(tau: float) -> nn.Module:
        return norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(1000 / tau)))

    shape, dt = (8,), 1e-6
    if kind == "linear":
        layers = (nn.Linear(8, 16), box(2.0), nn.Linear(16, 5), box(4.0))
    elif kind == "convolutional":
        shape = (2, 6, 6)
        layers = (nn.Conv2d(2, 4, 3, padding=1), box(2.0), nn.Conv2d(4, 3, 3), box(2.0))
    else:
        dt, layers = 1.0, (nn.Linear(8, 16), norse.IAFCell(), nn.Linear(16, 5), norse.IAFCell())
    net, x_T = on_grid(norse.SequentialState(*layers)), inputs(*shape, batch=1)
    graph = norse.to_nir(net, x_T[0, 0])
    state, steps = None, []
    for x_t in x_T[:, 0]:
        y_t, state = net(x_t, state)
        steps.append(y_t.detach())
    expected_T = torch.stack(steps)[:, None]
    assert 0.02 < expected_T.mean() < 0.9
    assert torch.equal(from_nir(graph, dt=dt)(x_T), expected_T)
    if dt == 1e-6:
        with pytest.raises(CheckpointError, match="shorter than the time step"):
            from_nir(graph, dt=1e-3)
