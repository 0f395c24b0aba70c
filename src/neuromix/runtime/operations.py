"""The operations of a program: which keys each has, and the shape and type of its value.

Shapes: [C, H, W] for one step; O output channels of a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from neuromix.core.errors import ProgramError
from neuromix.runtime.node import (
    BINARY,
    MAX_ELEMENTS,
    MAX_LEVELS,
    MAX_SIDE,
    REAL,
    Edge,
    Node,
    Shape,
    ValueType,
    is_integer,
    require,
)


class Key(NamedTuple):
    """What a key of a node may hold."""

    expected: str
    fits: Callable[[Any], bool]
    optional: bool = False


Infer: TypeAlias = Callable[..., Edge]


class Operation(NamedTuple):
    """An operation: its keys, how many inputs it has, and what its value is."""

    keys: Mapping[str, Key]
    least: int
    most: int
    infer: Infer


OPERATIONS: dict[str, Operation] = {}
FLOAT32_MAX = torch.finfo(torch.float32).max


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT32_MAX


def _integer(least: int, most: int = MAX_SIDE) -> Key:
    return Key(
        f"an integer from {least} to {most}", lambda value: is_integer(value) and least <= value <= most
    )


def _pair(least: int) -> Key:
    return Key(
        f"two integers from {least} to {MAX_SIDE}",
        lambda value: (
            isinstance(value, list | tuple)
            and len(value) == 2
            and all(is_integer(side) and least <= side <= MAX_SIDE for side in value)
        ),
    )


NUMBER = Key("a number that float32 holds", _is_number)
BOOL = Key("true or false", lambda value: isinstance(value, bool))
RESET = Key("hard, soft or none", lambda value: value in ("hard", "soft", "none"))
# Their shapes depend on those of the inputs, so that the operation checks them.
TENSOR = Key("a float32 tensor", lambda value: isinstance(value, Tensor) and value.dtype == torch.float32)
WEIGHT = Key(
    "a float32 or int8 tensor [O, I, kh, kw]",
    lambda value: (
        isinstance(value, Tensor) and value.dtype in (torch.float32, torch.int8) and value.dim() == 4
    ),
)
MAYBE_TENSOR = Key("a float32 tensor or null", lambda value: value is None or TENSOR.fits(value))
ONLY_INT8 = TENSOR._replace(optional=True)
TENSOR_KEYS = (TENSOR, WEIGHT, MAYBE_TENSOR, ONLY_INT8)


def _operation(name: str, least: int = 1, most: int | None = None, **keys: Key) -> Callable[[Infer], Infer]:
    def decorate(infer: Infer) -> Infer:
        OPERATIONS[name] = Operation(keys, least, least if most is None else most, infer)
        return infer

    return decorate


def infer_edges(input_shape: Shape, nodes: Sequence[Node]) -> tuple[Edge, ...]:
    """Shape and type of every node's value.

    Raises:
        ProgramError: a node that breaks a rule, which is named.
    """
    edges: list[Edge] = []
    for node in nodes:
        edges.append(infer_edge(node, edges, input_shape))
    return tuple(edges)


def infer_edge(node: Node, edges: Sequence[Edge], input_shape: Shape) -> Edge:
    """Shape and type of the value of one more node, behind nodes with these `edges`.

    Raises:
        ProgramError: the node breaks a rule.
    """
    try:
        return _infer(len(edges), node, edges, input_shape)
    except ProgramError as error:
        raise ProgramError(f"node {len(edges)} ({node.op} {node.name!r}): {error}") from None


def _infer(index: int, node: Node, edges: Sequence[Edge], input_shape: Shape) -> Edge:
    operation = OPERATIONS.get(node.op)
    if operation is None:
        raise ProgramError(f"unknown operation; known: {', '.join(OPERATIONS)}")
    require((node.op == "input") == (index == 0), "the input is node 0 and no other", node.op)
    _require_keys(node, operation)
    require(
        operation.least <= len(node.inputs) <= operation.most,
        f"needs {operation.least if operation.most == operation.least else f'{operation.least} or more'} inputs",
        len(node.inputs),
    )
    require(
        all(is_integer(number) and 0 <= number < index for number in node.inputs),
        "reads only nodes before it",
        list(node.inputs),
    )
    inputs = [edges[number] for number in node.inputs]
    edge: Edge = operation.infer(node, *inputs) if inputs else Edge(input_shape)
    require(
        len(edge.shape) == 3 and all(is_integer(side) and 1 <= side <= MAX_SIDE for side in edge.shape),
        f"channels and sides must be 1 to {MAX_SIDE}",
        list(edge.shape),
    )
    require(
        math.prod(edge.shape) <= MAX_ELEMENTS,
        f"a value has at most {MAX_ELEMENTS} elements",
        list(edge.shape),
    )
    return edge


def _require_keys(node: Node, operation: Operation) -> None:
    needed = {name for name, key in operation.keys.items() if not key.optional}
    missing, unknown = needed - node.keys.keys(), node.keys.keys() - operation.keys.keys()
    require(not missing, "lacks a key", ", ".join(sorted(missing)))
    require(not unknown, "unknown key", ", ".join(sorted(unknown)))
    for name, value in node.keys.items():
        key = operation.keys[name]
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else value
        require(key.fits(value), f"{name} must be {key.expected}", got)
        if isinstance(value, Tensor) and value.dim() == 1:
            require(bool(value.isfinite().all()), f"{name} must be finite", "NaN or infinity")


def _require_channels(node: Node, channels: int, *names: str) -> None:
    for name in names:
        tensor = node.keys.get(name)
        if tensor is not None:
            require(tuple(tensor.shape) == (channels,), f"{name} must be [{channels}]", list(tensor.shape))


def _require_type(name: str, wanted: ValueType, *edges: Edge) -> None:
    for edge in edges:
        require(edge.type == wanted, f"reads {wanted.name} {name}", edge.type.name)


def _windows(
    shape: Shape, node: Node, kernel: Sequence[int], dilation: Sequence[int] = (1, 1)
) -> tuple[int, int]:
    """Sides of what a window of the node's stride and padding gives, sliding over a map."""
    sides = [
        (side + 2 * padding - reach * (length - 1) - 1) // stride + 1
        for side, length, reach, stride, padding in zip(
            shape[1:], kernel, dilation, node["stride"], node["padding"], strict=True
        )
    ]
    require(min(sides) >= 1, "its window is larger than the padded map", f"sides {list(shape[1:])}")
    return sides[0], sides[1]


@_operation("input", 0)
def _input(node: Node) -> Edge:
    raise AssertionError  # its edge is the shape of the program's input


@_operation(
    "conv",
    weight=WEIGHT,
    scale=ONLY_INT8,
    bias=MAYBE_TENSOR,
    stride=_pair(1),
    padding=_pair(0),
    dilation=_pair(1),
    groups=_integer(1),
)
def _conv(node: Node, x: Edge) -> Edge:
    weight, groups = node["weight"], node["groups"]
    channels, out = x.shape[0], weight.shape[0]
    require(
        channels % groups == 0 and out % groups == 0 and weight.shape[1] == channels // groups,
        f"weight does not fit an input of {channels} channels in {groups} groups",
        list(weight.shape),
    )
    require(min(weight.shape) >= 1, "weight must not be empty", list(weight.shape))
    _require_channels(node, out, "bias", "scale")
    is_int8 = weight.dtype == torch.int8
    require(is_int8 == ("scale" in node.keys), "int8 weights, and they alone, have a scale", weight.dtype)
    return Edge((out, *_windows(x.shape, node, weight.shape[2:], node["dilation"])))


@_operation(
    "lif",
    decay=TENSOR,
    gain=TENSOR,
    offset=TENSOR,
    threshold=TENSOR,
    reset=RESET,
    v_reset=NUMBER,
    v_init=NUMBER,
    fire_at=NUMBER,
    strict=BOOL,
)
def _lif(node: Node, x: Edge) -> Edge:
    _require_type("input", REAL, x)
    _require_channels(node, x.shape[0], "decay", "gain", "offset", "threshold")
    return Edge(x.shape, REAL if node["reset"] == "none" else BINARY)


@_operation("levels", gain=NUMBER, levels=_integer(1, MAX_LEVELS))
def _levels(node: Node, x: Edge) -> Edge:
    _require_type("input", REAL, x)
    return Edge(x.shape, ValueType("integer", node["levels"]))


@_operation("affine", scale=TENSOR, shift=TENSOR)
def _affine(node: Node, x: Edge) -> Edge:
    _require_channels(node, x.shape[0], "scale", "shift")
    return Edge(x.shape)


@_operation("add", 2, MAX_SIDE)
def _add(node: Node, x: Edge, *others: Edge) -> Edge:
    shapes = {edge.shape for edge in (x, *others)}
    require(len(shapes) == 1, "adds values of one shape", [list(shape) for shape in shapes])
    return Edge(x.shape)


def _pooled(node: Node, x: Edge) -> Shape:
    # So every window has a position of the map.
    fits = all(p < k for p, k in zip(node["padding"], node["kernel"], strict=True))
    require(fits, "padding must be less than the kernel", list(node["padding"]))
    return (x.shape[0], *_windows(x.shape, node, node["kernel"]))


@_operation("max_pool", kernel=_pair(1), stride=_pair(1), padding=_pair(0))
def _max_pool(node: Node, x: Edge) -> Edge:
    return Edge(_pooled(node, x), x.type)


@_operation("avg_pool", kernel=_pair(1), stride=_pair(1), padding=_pair(0), count_padding=BOOL)
def _avg_pool(node: Node, x: Edge) -> Edge:
    return Edge(_pooled(node, x))


@_operation("mean")
def _mean(node: Node, x: Edge) -> Edge:
    return Edge((x.shape[0], 1, 1))


@_operation("attend", 3, heads=_integer(1), scale=NUMBER)
def _attend(node: Node, q: Edge, k: Edge, v: Edge) -> Edge:
    _require_type("queries, keys and values", BINARY, q, k, v)
    require(q.shape == k.shape == v.shape, "q, k and v have one shape", [list(e.shape) for e in (q, k, v)])
    require(q.shape[0] % node["heads"] == 0, f"heads must divide {q.shape[0]} channels", node["heads"])
    return Edge(q.shape)


@_operation("token_sum", 1, 2)
def _token_sum(node: Node, *inputs: Edge) -> Edge:
    _require_type("inputs", BINARY, *inputs)
    require(
        len({edge.shape for edge in inputs}) == 1, "inputs have one shape", [list(e.shape) for e in inputs]
    )
    return Edge((inputs[0].shape[0], 1, 1))


@_operation("gate", 2)
def _gate(node: Node, g: Edge, x: Edge) -> Edge:
    _require_type("inputs", BINARY, g, x)
    require(g.shape == (x.shape[0], 1, 1), f"the gate must be {[x.shape[0], 1, 1]}", list(g.shape))
    return Edge(x.shape, BINARY)
