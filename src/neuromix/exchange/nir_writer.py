"""Writer: the nodes and edges that a program becomes in NIR, by one rule for each of its operations.

Shapes: T spike time, B batch, C channels, H W feature map, O outputs, I inputs, F features; a value of a program is
[C, H, W], one of the graph [C, H, W] or [F].
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import neuromix
from neuromix.core.errors import UnsupportedError
from neuromix.core.model import Model
from neuromix.exchange.nir_neurons import Array, Coefficients, below_level, to_node
from neuromix.exchange.nir_steps import Steps
from neuromix.runtime.node import BINARY, Node
from neuromix.runtime.program import Program

if TYPE_CHECKING:
    from nir import NIRGraph

WRITTEN = (
    "convolutions, linear layers, delays of whole steps, batch-norms, average pooling, max pooling of spikes, sums, "
    "integer neurons, and IF, LIF, CubaLIF and LeakyIntegrator with a hard reset"
)
Shape: TypeAlias = tuple[int, ...]
Sources: TypeAlias = tuple[str, ...]  # the nodes of a graph whose values add up to one of the program


class Writer:
    """A program on its way to a graph.

    Attributes:
        values: node of the program -> the nodes of the graph that add up to it.
        spikes: path of a neuron in the model -> those of each of its calls.
    """

    def __init__(self, program: Program, dt: float, net: Model) -> None:
        self.program, self.dt, self.net = program, dt, net
        averages = [node.op == "mean" and node.name == program.name for node in program.nodes]
        self.program_nodes = [
            _pass_on(node) if is_average and isinstance(net, Steps) else node
            for node, is_average in zip(program.nodes, averages, strict=True)
        ]
        self.gives_map = isinstance(net, Steps) and net.gives_map
        self.readers: dict[int, list[int]] = defaultdict(list)
        for index, node in enumerate(self.program_nodes):
            for source in node.inputs:
                self.readers[source].append(index)
        self._shapes = self._find_shapes()
        self._flat = self._find_flat(isinstance(net, Steps) and net.reads_features)
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.values: list[Sources] = []
        self.spikes: dict[str, list[Sources]] = defaultdict(list)

    def graph(self, readout: str | None) -> NIRGraph:
        import nir

        for index, node in enumerate(self.program_nodes):
            if node.op not in RULES:
                raise self.unsupported(node, "a product of spikes has no form in NIR")
            self.values.append(RULES[node.op](self, index, node))
            fires = node.op == "levels" or (node.op == "lif" and node["reset"] != "none")
            if fires:
                self.spikes[self.path(node)].append(self.values[index])
        output = self.program.output
        shape, sources = self.shape(output), self.values[output]
        if not self.gives_map and not self.is_flat(output):
            shape, sources = (math.prod(shape),), self._flattened(output, "output")
        self.add("output", nir.Output(np.array(shape)), sources)
        metadata: dict[str, Any] = {
            "dt": self.dt,
            "time_steps": self.program.time_steps,
            "model": self.program.name,
            "neuromix_version": neuromix.__version__,
        }
        if readout is not None:
            metadata["readout"] = readout
        return nir.NIRGraph(self.nodes, self.edges, metadata=metadata)

    # What the rules ask.

    def shape(self, index: int) -> Shape:
        """Of a value in the graph."""
        shape = self._shapes[index]
        return shape[:1] if self._flat[index] else shape

    def is_flat(self, index: int) -> bool:
        """Whether a value is [F]: where only linear layers and neurons read it."""
        return self._flat[index]

    def read(self, index: int, source: int) -> Sources:
        """The nodes that add up to a value which a node of the program reads, flat if it is flat itself."""
        if self._flat[index] and not self._flat[source]:
            return self._flattened(source, self.path(self.program_nodes[index]))
        return self.values[source]

    def add(self, name: str, node: Any, sources: Sources) -> Sources:
        """One more node, under this name or one with a number behind it."""
        unique = name = name.replace("/", "_")  # in a file, that would be a folder
        while unique in self.nodes:
            unique = f"{name}_{len(self.nodes)}"
        self.nodes[unique] = node
        self.edges += [(source, unique) for source in sources]
        return (unique,)

    def path(self, node: Node) -> str:
        """Of the module that a node comes from, in the given model."""
        prefix = "net." if isinstance(self.net, Steps) else ""
        return node.name.removeprefix(prefix).removesuffix(".membrane")

    def unsupported(self, node: Node, problem: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.program.name}.{self.path(node)}: {problem}; what can be written: {WRITTEN}"
        )

    def over(self, index: int, values: Array) -> Array:
        """A number a channel as one for each place of a value."""
        shape = self.shape(index)
        return np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()

    def _flattened(self, source: int, reader: str) -> Sources:
        import nir

        flatten = nir.Flatten(np.array(self.shape(source)), start_dim=0, end_dim=-1)
        return self.add(f"{reader}.flatten", flatten, self.values[source])

    def _find_shapes(self) -> list[Shape]:
        shapes: list[Shape] = []
        for node, edge in zip(self.program_nodes, self.program.edges, strict=True):
            shapes.append(shapes[node.inputs[0]] if node.op in PLACE_WISE else edge.shape)
        return shapes

    def _find_flat(self, reads_features: bool) -> list[bool]:
        flat = [False] * len(self.program_nodes)
        for index in reversed(range(len(flat))):
            flat[index] = (
                self._shapes[index][1:] == (1, 1)
                and self._is_feature_wise(index, reads_features)
                and all(flat[reader] for reader in self.readers[index])
                and not (index == self.program.output and self.gives_map)
            )
        return flat

    def _is_feature_wise(self, index: int, reads_features: bool) -> bool:
        """Whether a node is an input of features, a linear layer, or works on each place by itself."""
        node = self.program_nodes[index]
        if node.op == "input":
            return reads_features
        if node.op != "conv":
            return node.op in PLACE_WISE
        covers = node["weight"].shape[2:] == self._shapes[node.inputs[0]][1:]
        return covers and [*node["padding"]] == [0, 0] and node["groups"] == 1


# Operations that work on each place by itself.
PLACE_WISE = ("lif", "levels", "affine", "add")


def _pass_on(node: Node) -> Node:
    return dataclasses.replace(node, op="affine", keys={"scale": torch.ones(1), "shift": torch.zeros(1)})


# The rules: operation of the program -> nodes of the graph.


def _input(writer: Writer, index: int, node: Node) -> Sources:
    import nir

    return writer.add("input", nir.Input(np.array(writer.shape(index))), ())


def _conv(writer: Writer, index: int, node: Node) -> Sources:
    weight, bias = node["weight"], None if node["bias"] is None else node["bias"].numpy()
    if "scale" in node.keys:  # integers
        weight = weight * node["scale"][:, None, None, None]
    if writer.is_flat(index):
        return _linear(writer, index, node, writer.path(node), weight.flatten(1).numpy(), bias)
    return _conv2d(writer, index, node, writer.path(node), _ungrouped(weight.numpy(), node["groups"]), bias)


def _ungrouped(weight: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """With zeros for what a group does not read: nir takes the channels of a group for those of the input."""
    outputs, inputs = len(weight) // groups, weight.shape[1]
    dense = np.zeros((len(weight), inputs * groups, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        dense[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return dense


def _conv2d(
    writer: Writer,
    index: int,
    node: Node,
    name: str,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
) -> Sources:
    import nir

    if weight.shape[2] != weight.shape[3]:
        raise writer.unsupported(
            node, f"a kernel {list(weight.shape[2:])} is not square, for which nir computes other shapes"
        )
    source = node.inputs[0]
    conv = nir.Conv2d(
        input_shape=writer.shape(source)[1:],
        weight=weight,
        stride=tuple(node.keys.get("stride", (1, 1))),
        padding=tuple(node.keys.get("padding", (0, 0))),
        dilation=tuple(node.keys.get("dilation", (1, 1))),
        groups=1,
        bias=np.zeros(len(weight), weight.dtype) if bias is None else bias,
    )
    return writer.add(name, conv, writer.read(index, source))


def _linear(
    writer: Writer,
    index: int,
    node: Node,
    name: str,
    weight_OF: NDArray[np.float32],
    bias_O: NDArray[np.float32] | None,
) -> Sources:
    import nir

    layer = nir.Linear(weight_OF) if bias_O is None else nir.Affine(weight_OF, bias_O)
    return writer.add(name, layer, writer.read(index, node.inputs[0]))


def _affine(writer: Writer, index: int, node: Node) -> Sources:
    """A convolution of kernel 1 with a diagonal weight, which more tools read than a scale."""
    scale, shift = node["scale"].numpy(), node["shift"].numpy()
    if (scale == 1).all() and (shift == 0).all():
        return writer.read(index, node.inputs[0])
    name = writer.path(node)
    name = name if name.endswith(".input") else f"{name}.scale"
    if writer.is_flat(index):
        return _linear(writer, index, node, name, np.diag(scale), shift)
    return _conv2d(writer, index, node, name, np.diag(scale)[:, :, None, None], shift)


def _add(writer: Writer, index: int, node: Node) -> Sources:
    """No node: who reads the sum reads its terms, added up in the same order."""
    total, *terms = (writer.read(index, source) for source in node.inputs)
    for term in terms:
        if len(total) == 1 < len(term):
            total, term = term, total  # a sum of sums is added up from the left
        if len(term) > 1 or set(term) & set(total):
            term = _joined(writer, index, node, term)
        total += term
    return total


def _joined(writer: Writer, index: int, node: Node, sources: Sources) -> Sources:
    """One node that passes on a sum, or a value once more."""
    import nir

    ones = np.ones(writer.shape(index), np.float32)
    return writer.add(f"{writer.path(node)}.term", nir.Scale(ones), sources)


def _lif(writer: Writer, index: int, node: Node) -> Sources:
    source, fires = node.inputs[0], node["reset"] != "none"
    if node["reset"] == "soft":
        raise writer.unsupported(
            node, "a soft reset has no form in NIR, whose neurons are set to v_reset; train it with v_reset=0"
        )
    if node["v_init"] != (node["v_reset"] if fires else 0):
        raise writer.unsupported(node, "NIR does not say what a membrane begins with: v_init must be v_reset")
    decay = node["decay"].double()
    if not bool((decay == 1).all() or ((decay >= 0) & (decay < 1)).all()):
        raise writer.unsupported(node, "its decays are beyond 0 to 1, or 1 for some neurons only")
    if any(_synapse(writer, reader) == index for reader in writer.readers[index]):
        return ()  # part of the neuron behind it
    synapse = _synapse(writer, index)
    if synapse is not None:
        source = writer.program_nodes[synapse].inputs[0]

    def each(values: Tensor) -> Array:
        return writer.over(index, values.double().numpy())

    coefficients = Coefficients(
        decay=each(decay),
        gain=each(node["gain"]),
        offset=each(node["offset"]),
        threshold=each(_fires_above(node)) if fires else None,
        v_reset=each(torch.tensor(node["v_reset"])) if fires else None,
        synapse=None if synapse is None else each(writer.program_nodes[synapse]["decay"]),
    )
    return writer.add(writer.path(node), to_node(coefficients, writer.dt), writer.read(index, source))


def _fires_above(node: Node) -> Tensor:
    """The largest float32 that is not enough for a spike, [C]."""
    fire: Tensor = node["fire_at"] * node["threshold"]
    return fire if node["strict"] else torch.nextafter(fire, torch.tensor(-math.inf))


def _synapse(writer: Writer, index: int) -> int | None:
    """The integrator that feeds a neuron, and it alone, in the way of a synapse."""
    node = writer.program_nodes[index]
    if node.op != "lif" or node["reset"] == "none" or bool((node["decay"] == 1).any()):
        return None
    source = writer.program_nodes[node.inputs[0]]
    is_synapse = (
        source.op == "lif"
        and source["reset"] == "none"
        and bool((source["gain"] == 1).all() and (source["offset"] == 0).all())
        and bool(((source["decay"] >= 0) & (source["decay"] < 1)).all())
        and writer.readers[node.inputs[0]] == [index]
    )
    return node.inputs[0] if is_synapse else None


def _levels(writer: Writer, index: int, node: Node) -> Sources:
    """An integer is the number of thresholds that the input is above."""
    import nir

    gain, levels = node["gain"], node["levels"]
    if gain <= 0:
        raise writer.unsupported(
            node, f"integers that fall with the input have no form in NIR, gain is {gain}"
        )
    read = writer.read(index, node.inputs[0])
    sources: Sources = ()
    for level in range(1, levels + 1):
        threshold = writer.over(index, np.array([below_level(level, gain, levels)], np.float64))
        sources += writer.add(f"{writer.path(node)}.{level}", nir.Threshold(threshold), read)
    return sources


def _max_pool(writer: Writer, index: int, node: Node) -> Sources:
    """Of spikes alone: there is one in the window if there are more than none."""
    import nir

    if writer.program.edges[node.inputs[0]].type != BINARY:
        raise writer.unsupported(node, "max pooling of anything but binary spikes has no form in NIR")
    window = {key: np.array(node[name]) for key, name in _WINDOW.items()}
    name = writer.path(node)
    total = writer.add(f"{name}.sum", nir.SumPool2d(**window), writer.read(index, node.inputs[0]))
    return writer.add(name, nir.Threshold(writer.over(index, np.array([0.5]))), total)


def _avg_pool(writer: Writer, index: int, node: Node) -> Sources:
    import nir

    if any(node["padding"]) and not node["count_padding"]:
        raise writer.unsupported(
            node, "average pooling that leaves its padding out of the mean has no form in NIR"
        )
    window = {key: np.array(node[name]) for key, name in _WINDOW.items()}
    return writer.add(writer.path(node), nir.AvgPool2d(**window), writer.read(index, node.inputs[0]))


def _mean(writer: Writer, index: int, node: Node) -> Sources:
    """An average over a window of the size of the map."""
    import nir

    sides = np.array(writer.shape(node.inputs[0])[1:])
    pool = nir.AvgPool2d(kernel_size=sides, stride=sides, padding=np.array([0, 0]))
    return writer.add(f"{writer.path(node)}.mean", pool, writer.read(index, node.inputs[0]))


_WINDOW = {"kernel_size": "kernel", "stride": "stride", "padding": "padding"}
RULES: Mapping[str, Callable[[Writer, int, Node], Sources]] = {
    "input": _input,
    "conv": _conv,
    "lif": _lif,
    "levels": _levels,
    "affine": _affine,
    "add": _add,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "mean": _mean,
}
