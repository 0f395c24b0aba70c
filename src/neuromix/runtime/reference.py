"""run_reference: the definition of what a program computes, in plain PyTorch.

It goes node by node over all steps at once, as nothing but a neuron's membrane passes from one step to the next.

Shapes: T spike time (1 for a value that is the same at every step), B batch, C channels, H W map, O output
channels, I input channels of a group, h heads, N tokens, K channels of a head or values of the output.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.time import fold
from neuromix.runtime.node import Node
from neuromix.runtime.program import Program


class Run(NamedTuple):
    """What a program gave.

    Attributes:
        output: read over time, [B, K].
        values: node -> its value at each step, [T, B, C, H, W]; T = 1 where it is static.
    """

    output: Tensor
    values: dict[int, Tensor]


def run_reference(
    program: Program,
    x: Any,
    time_steps: int | None = None,
    *,
    frames: bool = False,
    dtype: torch.dtype = torch.float32,
    ordered: bool = False,
    keep: Collection[int] | None = None,
) -> Run:
    """Runs a program.

    Args:
        x: a static input [C, H, W] or [B, C, H, W]; with `frames` one a step, [T, C, H, W] or [B, T, C, H, W].
        time_steps: how often a static input is shown, by default as the program says.
        dtype: float32, or float64 for comparisons.
        ordered: add up weights in the order that the format prescribes, so that float32 sums of binary or integer
            inputs are right to the last bit; slow.
        keep: the nodes whose values are wanted, by default all.

    Raises:
        ShapeError: the input does not fit.
    """
    x_T, steps = as_steps(program, x, time_steps, frames)
    last_reader = {source: index for index, node in enumerate(program.nodes) for source in node.inputs}
    wanted = range(len(program.nodes)) if keep is None else keep
    values: dict[int, Tensor] = {0: x_T.to(dtype)}
    for index, node in enumerate(program.nodes[1:], 1):
        inputs = [values[source] for source in node.inputs]
        is_event = program.edges[node.inputs[0]].type.levels > 0
        values[index] = evaluate(node, inputs, steps, ordered=ordered and is_event)
        for source in set(node.inputs):
            if last_reader[source] == index and source not in wanted and source != program.output:
                del values[source]
    output = read_over_time(program, values[program.output], steps)
    return Run(output, {index: value for index, value in values.items() if index in wanted})


def as_steps(program: Program, x: Any, time_steps: int | None, frames: bool) -> tuple[Tensor, int]:
    """The input [T, B, C, H, W], with T = 1 for a static one, and the number of steps of the run."""
    x = torch.as_tensor(x)
    if x.dim() == (4 if frames else 3):
        x = x.unsqueeze(0)
    if x.dim() != (5 if frames else 4) or tuple(x.shape[-3:]) != tuple(program.input_shape):
        lead = "[B, T, ...]" if frames else "[B, ...]"
        raise ShapeError(f"expected {lead} of {list(program.input_shape)}, got {list(x.shape)}")
    if not frames:
        steps = program.time_steps if time_steps is None else time_steps
        if steps < 1:
            raise ConfigError(f"time_steps must be 1 or more, got {steps}")
        return x.unsqueeze(0), steps
    if x.shape[1] == 0 or time_steps not in (None, x.shape[1]):
        raise ShapeError(f"got {x.shape[1]} frames, and time_steps {time_steps}")
    return x.transpose(0, 1), x.shape[1]


def read_over_time(program: Program, y_T: Tensor, steps: int) -> Tensor:
    """The output of a run [B, K] from its output at each step, [T, B, K, 1, 1]."""
    y_TBK = y_T.expand(steps, *y_T.shape[1:]).flatten(2)
    if program.readout == "last":
        return y_TBK[-1]
    total_BK = functools.reduce(torch.add, y_TBK.unbind(0))
    return total_BK / steps if program.readout == "mean" else total_BK


def evaluate(node: Node, inputs: list[Tensor], steps: int, *, ordered: bool = False) -> Tensor:
    """The value of one node at every step; static inputs without state give a static value."""
    if len({len(x_T) for x_T in inputs}) > 1:
        inputs = [x_T.expand(steps, *x_T.shape[1:]) for x_T in inputs]
    if node.op == "lif":
        return _lif(node, inputs[0].expand(steps, *inputs[0].shape[1:]))
    if node.op == "conv" and ordered:
        return fold(lambda x: _conv_ordered(node, x), inputs[0])
    return _RULES[node.op](node, *inputs)


def _row(values: Tensor, like: Tensor) -> Tensor:
    """A number a channel, to be broadcast over maps."""
    return values.to(like.dtype)[:, None, None]


def _conv(node: Node, x_T: Tensor) -> Tensor:
    def convolve(x: Tensor) -> Tensor:
        return F.conv2d(
            x,
            node["weight"].to(x.dtype),
            None,
            tuple(node["stride"]),
            tuple(node["padding"]),
            tuple(node["dilation"]),
            node["groups"],
        )

    return _with_bias(node, fold(convolve, x_T))


def _with_bias(node: Node, y: Tensor) -> Tensor:
    if node["weight"].dtype == torch.int8:
        y = y * _row(node["scale"], y)
    return y if node["bias"] is None else y + _row(node["bias"], y)


def _conv_ordered(node: Node, x_BCHW: Tensor) -> Tensor:
    """Weights added one after the other: kernel row, kernel column, input channel; integers are exact in float64."""
    is_int8, groups = node["weight"].dtype == torch.int8, node["groups"]
    x = _padded(node, x_BCHW.double() if is_int8 else x_BCHW, 0.0)
    x = x.view(len(x), groups, -1, *x.shape[-2:])  # B G I H W
    weight = node["weight"].to(x.dtype).view(groups, -1, *node["weight"].shape[1:])  # G O I kh kw
    (sh, sw), (dh, dw), (rows, columns) = node["stride"], node["dilation"], weight.shape[-2:]
    height = (x.shape[3] - dh * (rows - 1) - 1) // sh + 1
    width = (x.shape[4] - dw * (columns - 1) - 1) // sw + 1
    y = x.new_zeros(len(x), groups, weight.shape[1], height, width)
    if node["bias"] is not None and not is_int8:
        y = y + _row(node["bias"], y).view(groups, -1, 1, 1)
    for row, column in itertools.product(range(rows), range(columns)):
        seen = x[..., row * dh :: sh, column * dw :: sw][..., :height, :width]
        for channel in range(weight.shape[2]):
            y = y + weight[:, :, channel, row, column, None, None] * seen[:, :, channel, None]
    y = y.flatten(1, 2).to(x_BCHW.dtype)
    return _with_bias(node, y) if is_int8 else y


def _lif(node: Node, x_T: Tensor) -> Tensor:
    decay, gain, offset, threshold = (
        _row(node[key], x_T) for key in ("decay", "gain", "offset", "threshold")
    )
    fire = node["fire_at"] * threshold
    v = torch.full_like(x_T[0], node["v_init"])
    steps = []
    for x in x_T.unbind(0):
        h = decay * v + gain * x + offset
        s = h > fire if node["strict"] else h >= fire
        if node["reset"] == "none":
            v = h
        elif node["reset"] == "hard":
            v = torch.where(s, node["v_reset"], h)
        else:
            v = h - s.to(h.dtype) * threshold
        steps.append(h if node["reset"] == "none" else s.to(h.dtype))
    return torch.stack(steps)


def _levels(node: Node, x_T: Tensor) -> Tensor:
    z_T = x_T * node["gain"]
    return torch.where(z_T.isnan(), 0.0, z_T).clamp(0, node["levels"]).add(0.5).floor()


def _affine(node: Node, x_T: Tensor) -> Tensor:
    return x_T * _row(node["scale"], x_T) + _row(node["shift"], x_T)


def _add(node: Node, x_T: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        x_T = x_T + other
    return x_T


def _max_pool(node: Node, x_T: Tensor) -> Tensor:
    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(_padded(node, x, -math.inf), tuple(node["kernel"]), tuple(node["stride"]))

    return fold(pool, x_T)


def _avg_pool(node: Node, x_T: Tensor) -> Tensor:
    """Sums over the windows, divided by how many positions they have: in all, or on the map."""

    def total(x: Tensor) -> Tensor:
        return F.avg_pool2d(
            _padded(node, x, 0.0), tuple(node["kernel"]), tuple(node["stride"]), divisor_override=1
        )

    positions = torch.ones_like(x_T[:1, :1, :1])
    counts = math.prod(node["kernel"]) if node["count_padding"] else fold(total, positions)
    return fold(total, x_T) / counts


def _padded(node: Node, x: Tensor, value: float) -> Tensor:
    height, width = node["padding"]
    return F.pad(x, (width, width, height, height), value=value)


def _mean(node: Node, x_T: Tensor) -> Tensor:
    return x_T.double().mean((-2, -1), keepdim=True).to(x_T.dtype)


def _attend(node: Node, *qkv: Tensor) -> Tensor:
    q_TBhNK, k_TBhNK, v_TBhNK = (
        x_T.reshape(*x_T.shape[:2], node["heads"], -1, math.prod(x_T.shape[3:])).transpose(-2, -1)
        for x_T in qkv
    )
    y_TBhNK: Tensor = q_TBhNK @ (k_TBhNK.transpose(-2, -1) @ v_TBhNK) * node["scale"]
    return y_TBhNK.transpose(-2, -1).reshape(qkv[0].shape)


def _token_sum(node: Node, a_T: Tensor, b_T: Tensor | None = None) -> Tensor:
    return (a_T if b_T is None else a_T * b_T).sum((-2, -1), keepdim=True)


def _gate(node: Node, g_T: Tensor, x_T: Tensor) -> Tensor:
    return g_T * x_T


_Rule: TypeAlias = Callable[..., Tensor]
_RULES: Mapping[str, _Rule] = {
    "conv": _conv,
    "levels": _levels,
    "affine": _affine,
    "add": _add,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "mean": _mean,
    "attend": _attend,
    "token_sum": _token_sum,
    "gate": _gate,
}
