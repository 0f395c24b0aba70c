"""Graph: a program in the making."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from neuromix.core.errors import ProgramError, UnsupportedError
from neuromix.runtime.node import REAL, Edge, Node, Readout, Shape, ValueType
from neuromix.runtime.operations import infer_edge
from neuromix.runtime.traced import Traced


class Graph:
    """Nodes so far, their shapes and types, and where in the model the lowering is."""

    def __init__(self, model_name: str, input_shape: Shape) -> None:
        self.model_name = model_name
        self.input_shape = input_shape
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.readout: Readout | None = None  # known once the output has been read over time
        self._place: list[tuple[str, str]] = []  # the modules that are running, by path and type
        self._applied: dict[tuple[int, bytes, bytes], int] = {}
        self.input = self.add("input", (), axes=input_shape, leading=2)

    def add(
        self,
        op: str,
        inputs: tuple[Traced, ...],
        *,
        axes: tuple[int, ...] | None = None,
        leading: int,
        **keys: Any,
    ) -> Traced:
        """A new node that reads the nodes of `inputs`; their factors and shifts are the caller's to apply.

        Args:
            axes: how the model sees the value, by default [C, H, W].
        """
        if self.readout is not None and op != "affine":
            raise self.unsupported(
                "works on what has been read over time; only a factor may come behind that"
            )
        name = (self._place[-1][0] if self._place else "") or self.model_name
        keys = {key: _single(value) for key, value in keys.items()}
        node = Node(op, name, tuple(value.node for value in inputs), keys)
        try:
            self.edges.append(infer_edge(node, self.edges, self.input_shape))
        except ProgramError as error:
            raise UnsupportedError(f"{self.model_name}: {error}") from None
        self.nodes.append(node)
        index = len(self.nodes) - 1
        return Traced.of(self, index, self.shape(index) if axes is None else axes, leading)

    def shape(self, node: int) -> Shape:
        """[C, H, W] of a node's value."""
        return self.edges[node].shape

    def type(self, value: Traced) -> ValueType:
        """Type of the node's value."""
        return self.edges[value.node].type

    def applied(self, x: Traced) -> Traced:
        """The value with factor and shift applied, by a node if there is something to apply."""
        is_plain = bool((x.factor == 1).all() and (x.shift == 0).all())
        return x if is_plain else self._affine(x)

    def real(self, x: Traced) -> Traced:
        """The value as real numbers; factor and shift are kept."""
        return x if self.type(x) == REAL else self._affine(x)

    def _affine(self, x: Traced) -> Traced:
        """A node for factor and shift, shared by all who need the same."""
        key = (x.node, x.factor.numpy().tobytes(), x.shift.numpy().tobytes())
        if key not in self._applied:
            self._applied[key] = self.add("affine", (x,), leading=1, scale=x.factor, shift=x.shift).node
        return Traced.of(self, self._applied[key], x.axes, x.leading).replace(resize=x.resize)

    def unsupported(self, problem: str) -> UnsupportedError:
        """The error that says which module cannot be lowered and why."""
        path, kind = self._place[-1] if self._place else ("", "")
        where = f"{self.model_name}.{path}" if path else self.model_name
        return UnsupportedError(f"{where}{f' ({kind})' if kind else ''}: {problem}")

    @contextmanager
    def inside(self, path: str, kind: str) -> Iterator[None]:
        """While a module runs: it gives the new nodes their name."""
        self._place.append((path, kind))
        try:
            yield
        finally:
            self._place.pop()


def _single(value: Any) -> Any:
    """A weight as float32, or integers as they are, which is what files hold."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().to(value.dtype if value.dtype == torch.int8 else torch.float32).contiguous()
