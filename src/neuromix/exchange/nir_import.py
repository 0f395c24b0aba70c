"""from_nir: a graph of NIR as one of our models.

Shapes: T spike time, B batch, C channels, H W feature map, F features, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuromix.core.config import Spec
from neuromix.core.errors import CheckpointError, ConfigError, UnsupportedError
from neuromix.exchange.nir_delays import read_delay, read_tails
from neuromix.exchange.nir_file import read_graph, require_nir
from neuromix.exchange.nir_network import NIRNetwork, OneByOne, Part, Scale, SumPool2d, made_plain
from neuromix.exchange.nir_neurons import DT, NEURONS, Coefficients, from_parameters
from neuromix.exchange.nir_node import GraphNode, Reading, Shape
from neuromix.models.vision.cnn import Folded
from neuromix.ops.lif import LIFParameters
from neuromix.runtime.node import MAX_ELEMENTS, MAX_NODES, MAX_SIDE, MAX_STEPS, Readout

if TYPE_CHECKING:
    from nir import NIRGraph

Compare: TypeAlias = Literal[">", ">="]


def from_nir(
    graph: NIRGraph | str | Path,
    *,
    dt: float | None = None,
    compare: Compare = ">",
    readout: Readout | None = None,
    surrogate: Spec | str = "sigmoid",
) -> NIRNetwork:
    """A feed-forward graph of NIR, or the file of one, as a model: a node with several inputs reads their sum.

    Args:
        dt: the time step in seconds; by default that of the graph's metadata, else 1e-4.
        compare: when a membrane potential fires against the threshold: above it, as NIR says, or at it (">="), as
            the authors of some graphs meant.
        readout: how the output is read over time; None: the outputs of all steps.
        surrogate: of the neurons, for training.

    Raises:
        MissingExtraError: nir is not installed.
        CheckpointError: a file or graph that is damaged: no such file, shapes that do not fit, NaN, missing edges.
        UnsupportedError: a graph that is recurrent, or has a node without a form here.
        ConfigError: an option that is not one.

    Example:
        y_T = from_nir("net.nir")(x_T)
    """
    require_nir()
    if compare not in get_args(Compare):
        raise ConfigError(f"compare must be > or >=, got {compare!r}")
    if readout not in (None, *get_args(Readout)):
        raise ConfigError(f"readout must be mean, sum, last or None, got {readout!r}")
    name = "graph"
    if isinstance(graph, str | Path):
        name, graph = Path(graph).stem, read_graph(Path(graph))
    if type(graph).__name__ != "NIRGraph":
        raise ConfigError(f"a NIRGraph or the path of a file is needed, got a {type(graph).__name__}")
    metadata = graph.metadata if isinstance(graph.metadata, Mapping) else {}
    dt = _positive("dt", metadata.get("dt", DT) if dt is None else dt)
    time_steps = int(_positive("time_steps", metadata.get("time_steps", 1), MAX_STEPS))
    reading = Reading(dt, compare == ">", surrogate, read_tails(metadata))
    return _Reader(graph, reading).network(name, time_steps, readout)


def _positive(name: str, value: Any, most: float = math.inf) -> float:
    number = np.asarray(value)
    is_one = number.size == 1 and number.dtype.kind in "iuf"
    if not is_one or not 0 < float(number.item()) < math.inf or number.item() > most:
        limit = "" if most == math.inf else f" up to {most}"
        raise ConfigError(f"{name} must be a positive number{limit}, got {value!r}")
    return float(number.item())


class _Passage:
    """Input or Output of a graph within a graph."""


class _Reader:
    """A graph on its way to a network.

    Attributes:
        shapes: of the values of the nodes so far.
        late: how many steps these go on for after the end of the input.
    """

    def __init__(self, graph: NIRGraph, reading: Reading) -> None:
        self.reading = reading
        self.nodes, self.edges = _inlined(graph)
        for name in reading.tails:
            if type(self.nodes.get(name)).__name__ != "Delay":
                raise CheckpointError(f"the metadata's tails name {name!r}, which is no node Delay")
        self.shapes: dict[str, Shape] = {}
        self.late: dict[str, int] = {}

    def network(self, name: str, time_steps: int, reading: Readout | None) -> NIRNetwork:
        source, target = self._only("Input"), self._only("Output")
        sources = self._sources(source)
        self.shapes[source], self.late[source] = _declared(self.nodes[source], source, "input"), 0
        parts = [
            Part(node, tuple(sources[node]), self._module(node, sources[node]))
            for node in self._order(sources, target)
            if node != source
        ]
        return NIRNetwork(name, source, self.shapes[source], parts, time_steps=time_steps, reading=reading)

    def _only(self, kind: str) -> str:
        names = [name for name, node in self.nodes.items() if type(node).__name__ == kind]
        if len(names) != 1:
            raise UnsupportedError(f"a graph has one node {kind}, got {len(names) or 'none'}")
        return names[0]

    def _sources(self, source: str) -> dict[str, list[str]]:
        """What each node reads."""
        sources: dict[str, list[str]] = {name: [] for name in self.nodes}
        for start, end in self.edges:
            for name in (start, end):
                if name not in self.nodes:
                    raise CheckpointError(f"the edge {start!r} -> {end!r} names {name!r}, which is no node")
            if start in sources[end]:
                raise CheckpointError(f"the edge {start!r} -> {end!r} is there twice")
            sources[end].append(start)
        for name, inputs in sources.items():
            if not inputs and name != source:
                raise CheckpointError(f"node {name!r} has no edge that leads to it")
        return sources

    def _order(self, sources: Mapping[str, list[str]], target: str) -> list[str]:
        """The nodes that the output depends on, each behind those that it reads."""
        try:
            order = [*TopologicalSorter(sources).static_order()]
        except CycleError as error:
            loop = " -> ".join(map(repr, error.args[1]))
            raise UnsupportedError(
                f"a recurrent graph has no form here, only a feed-forward one: {loop}"
            ) from None
        needed = {target}
        for name in reversed(order):
            if name in needed:
                needed.update(sources[name])
        return [*(name for name in order if name in needed and name != target), target]

    def _module(self, name: str, sources: list[str]) -> nn.Module:
        """What a node does; notes the shape of its value."""
        shapes = {self.shapes[source] for source in sources}
        if len(shapes) > 1:
            listed = ", ".join(f"{source!r} {list(self.shapes[source])}" for source in sources)
            raise CheckpointError(f"node {name!r} adds values of unlike shapes: {listed}")
        node = GraphNode(name, self.nodes[name], shapes.pop(), self.reading)
        rule = RULES.get(node.kind)
        if rule is None:
            known = ", ".join(kind for kind in RULES if kind != "_Passage")
            raise UnsupportedError(f"node {name!r} is a {node.kind}, which has no form here; known: {known}")
        module, shape = rule(node)
        if not all(1 <= side <= MAX_SIDE for side in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise node.damaged(
                f"its value would be {list(shape)}; a side is 1 to {MAX_SIDE}, a value has at most {MAX_ELEMENTS} "
                "elements"
            )
        self.shapes[name], self.late[name] = shape, self._late(name, sources)
        return module

    def _late(self, name: str, sources: list[str]) -> int:
        late = {self.late[source] for source in sources}
        if len(late) > 1:
            raise CheckpointError(
                f"node {name!r} adds values that go on for unlike numbers of steps after the input: {sorted(late)}"
            )
        steps = late.pop() + self.reading.tails.get(name, 0)
        if steps > MAX_STEPS:
            raise CheckpointError(
                f"node {name!r} goes on for {steps} steps after the input, at most {MAX_STEPS}"
            )
        return steps


def _inlined(graph: NIRGraph) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Nodes and edges, with those of graphs within the graph in their place: there, Input and Output pass on."""
    nodes: dict[str, Any] = {}
    edges = [(str(start), str(end)) for start, end in graph.edges]
    for name, node in graph.nodes.items():
        if type(node).__name__ != "NIRGraph":
            nodes[str(name)] = node
            continue
        inner, inner_edges = _inlined(node)
        ends = {}
        for kind in ("Input", "Output"):
            found = [key for key, each in inner.items() if type(each).__name__ == kind]
            if len(found) != 1:
                raise UnsupportedError(
                    f"the graph {name!r} within the graph needs one {kind}, got {len(found)}"
                )
            ends[kind] = f"{name}.{found[0]}"
            inner[found[0]] = _Passage()
        nodes |= {f"{name}.{key}": each for key, each in inner.items()}
        edges = [
            (ends["Output"] if start == name else start, ends["Input"] if end == name else end)
            for start, end in edges
        ] + [(f"{name}.{start}", f"{name}.{end}") for start, end in inner_edges]
    if len(nodes) > MAX_NODES:
        raise UnsupportedError(f"a graph has at most {MAX_NODES} nodes, got {len(nodes)}")
    return nodes, edges


def _declared(node: Any, name: str, key: str) -> Shape:
    """The shape that an Input or Output says it has."""
    value = next(iter((getattr(node, f"{key}_type", None) or {None: None}).values()))
    sides = np.asarray([] if value is None else value)
    if sides.ndim != 1 or not 1 <= sides.size <= 3 or sides.dtype.kind not in "iu":
        raise CheckpointError(f"node {name!r} must have a shape of one to three whole numbers, got {value!r}")
    shape = tuple(int(side) for side in sides)
    if not all(1 <= side <= MAX_SIDE for side in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise CheckpointError(
            f"node {name!r} has the shape {list(shape)}; sides are 1 to {MAX_SIDE}, at most {MAX_ELEMENTS} elements"
        )
    return shape


Rule: TypeAlias = Callable[[GraphNode], tuple[nn.Module, Shape]]


def _affine(node: GraphNode) -> tuple[nn.Module, Shape]:
    weight_OF = node.weight("weight", 2)
    outputs, features = weight_OF.shape
    if node.shape != (features,):
        raise node.damaged(f"its weight {[outputs, features]} reads [{features}], got {list(node.shape)}")
    bias_O = node.bias(outputs) if node.kind == "Affine" else None
    layer = nn.Linear(features, outputs, bias=bias_O is not None, device="meta")
    return _filled(layer, weight_OF, bias_O), (outputs,)


def _conv(node: GraphNode) -> tuple[nn.Module, Shape]:
    count = 1 if node.kind == "Conv1d" else 2
    node.require_axes(count + 1)
    weight = node.weight("weight", count + 2)
    (groups,) = node.sides("groups", 1, 1)
    outputs, inputs = weight.shape[0], weight.shape[1] * groups
    if inputs != node.shape[0] or outputs % groups:
        raise node.damaged(
            f"its weight {list(weight.shape)} in {groups} groups reads {inputs} channels, got {node.shape[0]}"
        )
    stride, dilation = node.sides("stride", count, 1), node.sides("dilation", count, 1)
    kernel, padding = tuple(weight.shape[2:]), _padding(node, tuple(weight.shape[2:]), stride, dilation)
    bias = node.bias(outputs)
    make: Any = nn.Conv1d if count == 1 else nn.Conv2d
    options = {"bias": bias is not None, "device": "meta"}
    layer = make(inputs, outputs, kernel, stride, padding, dilation, groups, **options)
    return Folded(_filled(layer, weight, bias)), (outputs, *node.windows(kernel, stride, padding, dilation))


def _padding(
    node: GraphNode, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    padding = node.node.padding
    if not isinstance(padding, str):
        return node.sides("padding", len(kernel), 0)
    reach = [step * (length - 1) for step, length in zip(dilation, kernel, strict=True)]
    if padding == "valid":
        return (0,) * len(kernel)
    if padding != "same" or any(length % 2 for length in reach) or any(step != 1 for step in stride):
        raise node.damaged(f"padding {padding!r} is not the same on both sides, or unknown")
    return tuple(length // 2 for length in reach)


def _filled(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer that was made without memory, with its weights."""
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def _pool(node: GraphNode) -> tuple[nn.Module, Shape]:
    node.require_axes(3)
    kernel, stride = node.sides("kernel_size", 2, 1), node.sides("stride", 2, 1)
    padding = node.sides("padding", 2, 0)
    if any(2 * pad > length for pad, length in zip(padding, kernel, strict=True)):
        raise node.damaged(f"padding is at most half the kernel {list(kernel)}, got {list(padding)}")
    make: Any = SumPool2d if node.kind == "SumPool2d" else nn.AvgPool2d
    shape = (node.shape[0], *node.windows(kernel, stride, padding, (1, 1)))
    return Folded(make(kernel, stride, padding)), shape


def _flatten(node: GraphNode) -> tuple[nn.Module, Shape]:
    axes = len(node.shape)
    start, end = (int(node.values(field)) for field in ("start_dim", "end_dim"))
    if not (-axes <= start < axes and -axes <= end < axes and start % axes <= end % axes):
        raise node.damaged(f"start_dim {start} and end_dim {end} are no axes of {list(node.shape)}")
    start, end = start % axes, end % axes
    shape = (*node.shape[:start], math.prod(node.shape[start : end + 1]), *node.shape[end + 1 :])
    return nn.Flatten(start + 2, end + 2), shape


def _scale(node: GraphNode) -> tuple[nn.Module, Shape]:
    scale = node.over("scale")
    if (scale == 1).all():
        return nn.Identity(), node.shape
    rows, axes = scale.reshape(node.shape[0], -1), len(node.shape)
    if (rows == rows[:, :1]).all():  # one number a channel
        scale = rows[:, 0].reshape(-1, *[1] * (axes - 1))
    return Scale(torch.tensor(scale, dtype=torch.float32)), node.shape


def _delay(node: GraphNode) -> tuple[nn.Module, Shape]:
    return read_delay(node), node.shape


def _pass_on(node: GraphNode) -> tuple[nn.Module, Shape]:
    return nn.Identity(), node.shape


def _output(node: GraphNode) -> tuple[nn.Module, Shape]:
    declared = _declared(node.node, node.name, "output")
    if declared != node.shape:
        raise node.damaged(f"it declares {list(declared)}, and reads {list(node.shape)}")
    return nn.Identity(), node.shape


def _neuron(node: GraphNode) -> tuple[nn.Module, Shape]:
    reading = node.reading
    c = from_parameters({field: node.over(field) for field in NEURONS[node.kind]}, reading.dt)
    for name, decay in (("time constant", c.decay), ("synaptic time constant", c.synapse)):
        if decay is not None and not ((decay >= 0) & (decay <= 1)).all():
            raise node.damaged(f"a {name} is shorter than the time step dt={reading.dt:g}, or not positive")
    if c.v_reset is not None and (c.v_reset != c.v_reset.flat[0]).any():
        raise UnsupportedError(
            f"node {node.name!r} ({node.kind}): v_reset must be one number for all neurons"
        )
    return _leaf(c, node.shape, reading.strict, reading.surrogate), node.shape


def _leaf(c: Coefficients, shape: Shape, strict: bool, surrogate: Spec | str) -> nn.Module:
    """Coefficients as one number, or one a channel; where they differ within a channel, one a place."""
    given = {
        "decay": c.decay,
        "gain": c.gain,
        "offset": c.offset,
        "v_threshold": c.threshold,
        "extra_decay": c.synapse,
    }
    rows = {
        name: np.broadcast_to(values, shape).reshape(shape[0], -1)
        for name, values in given.items()
        if values is not None
    }
    differ = any((row != row[:, :1]).any() for row in rows.values())
    v_reset = 0.0 if c.v_reset is None else float(c.v_reset.flat[0])
    coefficients: dict[str, Any] = {
        name: _coefficient(row.ravel() if differ else row[:, 0]) for name, row in rows.items()
    }
    p = LIFParameters(
        **coefficients,
        v_reset=v_reset,
        v_init=v_reset,
        strict=strict,
        fires=c.threshold is not None,
        extra="none" if c.synapse is None else "synapse",
    )
    neuron = made_plain(p, surrogate)
    return OneByOne(neuron) if differ else neuron


def _coefficient(values: NDArray[np.float64]) -> float | Tensor:
    same = (values == values[0]).all()
    return float(values[0]) if same else torch.tensor(values, dtype=torch.float32)


RULES: Mapping[str, Rule] = {
    "Affine": _affine,
    "Linear": _affine,
    "Conv1d": _conv,
    "Conv2d": _conv,
    "AvgPool2d": _pool,
    "SumPool2d": _pool,
    "Flatten": _flatten,
    "Scale": _scale,
    "Delay": _delay,
    **dict.fromkeys(NEURONS, _neuron),
    "Output": _output,
    "_Passage": _pass_on,
}
