"""Program: a spiking network as the graph that `docs/nmx.md` describes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, get_args

from neuromix.runtime.node import MAX_NODES, MAX_STEPS, REAL, Edge, Node, Readout, Shape, is_integer, require
from neuromix.runtime.operations import infer_edges


@dataclass(frozen=True)
class Program:
    """A graph that keeps all rules of the format: one that breaks any cannot be made.

    Attributes:
        input_shape: [C, H, W] of one step.
        time_steps: how often a static input is shown, if nothing else is said.
        readout: how the output is read over time.
        classes: a name for each value of the output, or ().
        output: the node that is read.
        edges: shape and type of each node's value, computed from the nodes.

    Raises:
        ProgramError: a rule is broken.
    """

    name: str
    input_shape: Shape
    time_steps: int
    readout: Readout
    classes: tuple[str, ...]
    output: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = field(init=False)

    def __post_init__(self) -> None:
        is_count = is_integer(self.time_steps) and 1 <= self.time_steps <= MAX_STEPS
        require(is_count, f"time_steps must be an integer from 1 to {MAX_STEPS}", self.time_steps)
        require(self.readout in get_args(Readout), "readout must be mean, sum or last", self.readout)
        require(0 < len(self.nodes) <= MAX_NODES, f"needs 1 to {MAX_NODES} nodes", len(self.nodes))
        object.__setattr__(self, "edges", infer_edges(self.input_shape, self.nodes))
        require(
            is_integer(self.output) and 0 <= self.output < len(self.nodes),
            f"output must be a node, 0 to {len(self.nodes) - 1}",
            self.output,
        )
        self._require_output()

    def _require_output(self) -> None:
        (values, *sides), kind = self.edges[self.output].shape, self.edges[self.output].type
        require(
            sides == [1, 1] and kind == REAL,
            "the output must be real, [K, 1, 1]",
            f"{kind.name} {[values, *sides]}",
        )
        require(len(self.classes) in (0, values), f"needs no class names or {values}", f"{len(self.classes)}")

    def replace(self, **fields: Any) -> Program:
        """The program with some of its fields changed."""
        return dataclasses.replace(self, **fields)

    def readers(self, node: int) -> list[int]:
        """The nodes that read the value of a node."""
        return [index for index, other in enumerate(self.nodes) if node in other.inputs]

    def weight_bytes(self) -> int:
        """Memory of all weights."""
        return sum(tensor.nbytes for node in self.nodes for tensor in node.tensors.values())
