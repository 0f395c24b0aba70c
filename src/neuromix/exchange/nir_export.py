"""to_nir: a spiking network as a graph of NIR, by way of the program that the runtime lowers it to.

NIR has no batch-norm, no soft reset, no product of two values, no maximum and no sum over time. Batch-norms are
folded into convolutions, maxima of spikes are said as sums over a threshold, a sum is several edges to one node;
what then remains is refused. A program has no delays: they are taken out before and put in after it (`nir_delays`).
One step of the network is written; how often an input is shown, and how the outputs are read over time, is noted in
the metadata.

Shapes: T spike time, B batch, C channels, H W feature map, O outputs, I inputs, F features; a value of a program is
[C, H, W], one of the graph [C, H, W] or [F].
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from neuromix.core.edits import replace_modules
from neuromix.core.errors import ConfigError, UnsupportedError
from neuromix.core.model import Model, arguments
from neuromix.exchange.nir_delays import Tap, with_delays, without_delays
from neuromix.exchange.nir_file import require_nir
from neuromix.exchange.nir_network import NIRNetwork, made_plain
from neuromix.exchange.nir_neurons import DT
from neuromix.exchange.nir_steps import Steps
from neuromix.exchange.nir_writer import WRITTEN, Sources, Writer
from neuromix.neurons.integrate_and_fire import MembraneNeuron
from neuromix.runtime.lowering import lower
from neuromix.runtime.node import Node
from neuromix.runtime.passes import simplified
from neuromix.runtime.program import Program

if TYPE_CHECKING:
    from nir import NIRGraph

CLOSE = 1e-6  # relative: what rounding to float32 does to a coefficient


class Written(NamedTuple):
    """A graph, the program that it says, and where to find the neurons of the model in it.

    Attributes:
        spikes: path of a neuron -> the nodes that add up to what it sends, for each of its calls.
    """

    graph: NIRGraph
    program: Program
    spikes: Mapping[str, Sequence[Sources]]


def to_nir(model: nn.Module, example: Tensor | None = None, *, dt: float = DT) -> NIRGraph:
    """A feed-forward spiking network, in eval mode, as a graph of NIR; the model is left as it was.

    A neuron of ours fires at its threshold, one of NIR above it: the threshold that is written is the float32 just
    below. Weights are folded in float64 and kept in float32.

    Args:
        model: a Model, or any module of x_T [T, B, ...], such as an nn.Sequential of neurons and layers.
        example: an input, of which only the shape counts; a Model has one of its own. One that takes features a step,
            as of audio, is written from its steps on, without what it reads out of them.
        dt: the time step in seconds: a decay of 1 - 1/tau is written as the time constant tau*dt.

    Raises:
        MissingExtraError: nir is not installed.
        UnsupportedError: a part of the network has no form in NIR; it is named.
        ShapeError, ConfigError: an input that the network does not take, or a time step that is none.

    Example:
        graph = to_nir(nn.Sequential(nn.Linear(8, 4), LIF()), torch.zeros(1, 1, 8))
    """
    return written(model, example, dt=dt).graph


def written(model: nn.Module, example: Tensor | None = None, *, dt: float = DT) -> Written:
    """As `to_nir`, with what is needed to compare."""
    require_nir()
    if not 0 < dt < math.inf:
        raise ConfigError(f"dt must be a positive number of seconds, got {dt}")
    net: Model
    if reads_images(model):
        net, shape = model, None if example is None else tuple(example.shape[-3:])
    else:
        net = Steps(model, _own_example(model) if example is None else example)
        shape = net.step_shape
    plain, taps = without_delays(_with_open_synapses(net))
    try:
        program = lower(plain, input_shape=shape, factored=False)
    except UnsupportedError as error:
        text = str(error).replace(f"{net.name}.net.", f"{net.name}.") if isinstance(net, Steps) else error
        raise UnsupportedError(
            f"no form in NIR, which is written from an .nmx program: {text}; what can be written: {WRITTEN}"
        ) from error
    program = simplified(_with_plain_neurons(program))
    writer = Writer(program, dt, net)
    graph = writer.graph(_readout(model) if isinstance(net, Steps) else program.readout)
    return Written(_delayed(graph, writer, taps), program, writer.spikes)


def reads_images(model: nn.Module) -> TypeGuard[Model]:
    """Whether a module is a Model that is written with its readout; others are, as modules of x_T, step by step."""
    return isinstance(model, Model) and not isinstance(model, NIRNetwork) and not reads_features(model)


def reads_features(model: nn.Module) -> TypeGuard[Model]:
    """Whether a module is a Model of features a step, as of audio."""
    return isinstance(model, Model) and model.stream_axis == 0 and [f.axes for f in model.inputs] == ["BN"]


def _own_example(model: nn.Module) -> Tensor | None:
    return model.encode(*arguments(model, model.example(1))) if reads_features(model) else None


def _readout(model: nn.Module) -> str | None:
    """How the steps of a module of x_T are read, as far as it says so."""
    own = getattr(model.config, "readout", None) if reads_features(model) else None
    return getattr(model, "reading", None) if own is None else str(own)


def _delayed(graph: NIRGraph, writer: Writer, taps: Mapping[str, Tap]) -> NIRGraph:
    found = [
        (index, node)
        for index, node in enumerate(writer.program_nodes)
        if node.op == "conv" and node.name in taps
    ]
    if lost := taps.keys() - {node.name for _, node in found}:
        raise UnsupportedError(
            f"{writer.program.name}.{min(lost).removeprefix('net.')}: a delay that does not reach the output"
        )
    return with_delays(graph, {writer.values[index][0]: taps[node.name] for index, node in found}, writer.dt)


def _with_open_synapses(model: Model) -> Model:
    """Each neuron behind a synapse as two leaves, which can be lowered."""

    def opened(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, MembraneNeuron) or type(module).forward is not MembraneNeuron.forward:
            return None
        p = module.constants()
        return made_plain(p) if p.extra == "synapse" else None

    model = copy.deepcopy(model)
    replace_modules(model, opened)
    return model


def _with_plain_neurons(program: Program) -> Program:
    """Neurons take in their input as it is, or scaled by 1 - decay; what else is done to it is an `affine` before.

    So the neurons of a layer have one resistance, and leak to where they are reset, as many tools require.
    """
    nodes: list[Node] = []
    number: list[int] = []  # in `program` -> in `nodes`
    for node in program.nodes:
        node = dataclasses.replace(node, inputs=tuple(number[source] for source in node.inputs))
        if node.op == "lif":
            node, scale, shift = _plain(node)
            if bool((scale != 1).any() or (shift != 0).any()):
                keys = {"scale": scale.float(), "shift": shift.float()}
                nodes.append(Node("affine", f"{node.name}.input", node.inputs, keys))
                node = dataclasses.replace(node, inputs=(len(nodes) - 1,))
        number.append(len(nodes))
        nodes.append(node)
    return program.replace(nodes=tuple(nodes), output=number[program.output])


def _plain(node: Node) -> tuple[Node, Tensor, Tensor]:
    """A `lif` of plain gain and offset, and the scale and shift that its input then needs, float64 [C]."""
    decay, gain, offset = (node[key].double() for key in ("decay", "gain", "offset"))
    leak = torch.where(decay == 1, 1.0, 1 - decay)
    rest = node["v_reset"] * (1 - decay) if node["reset"] == "hard" else torch.zeros_like(decay)
    if not (bool((gain == 1).all()) or torch.allclose(gain, leak, rtol=CLOSE, atol=0)):
        node = node.replace(gain=leak.float())
    if not torch.allclose(offset, rest, rtol=CLOSE, atol=0):
        node = node.replace(offset=rest.float())
    gain_now, offset_now = node["gain"].double(), node["offset"].double()
    return node, gain / gain_now, (offset - offset_now) / gain_now
