"""The rules of PyTorch's functions: what a model does to a tensor, as nodes of a program.

A rule takes the arguments of its function, of which at least one is Traced. Modules of PyTorch (`nn.Conv2d`,
`nn.BatchNorm2d`, ...) need no rules of their own: they call these functions.

Shapes: T spike time, B batch, C channels, H W feature map, O output channels, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuromix.runtime.arguments import Operand, Sides, channels, on_map, over_channels, pair, read
from neuromix.runtime.traced import Traced, function


@function("contiguous", "float", "clone", "detach")
def same(x: Traced) -> Traced:
    return x


@function("dropout", "dropout1d", "dropout2d", "dropout3d")
def dropout(input: Traced, p: float = 0.5, training: bool = True, inplace: bool = False) -> Traced:
    if training and p > 0:
        raise input.graph.unsupported("dropout has chance in it; put the model in eval mode")
    return input


# Arithmetic with constants changes factor and shift alone.


@function("add")
def add(input: Operand, other: Operand, *, alpha: float = 1) -> Traced:
    """A sum of two values is a node."""
    other = scaled(other, alpha)
    if not isinstance(input, Traced):
        input, other = other, input
    assert isinstance(input, Traced)
    if not isinstance(other, Traced):
        return input.scaled(1.0, channels(input, other))
    graph = input.graph
    if (input.axes, input.leading) != (other.axes, other.leading):
        raise graph.unsupported(f"adds values of unlike shapes, {list(input.shape)} and {list(other.shape)}")
    terms = tuple(graph.applied(read(value)) for value in (input, other))
    return graph.add("add", terms, axes=input.axes, leading=input.leading)


@function("sub")
def subtract(input: Operand, other: Operand, *, alpha: float = 1) -> Traced:
    return add(input, other, alpha=-alpha)


@function("neg")
def negate(input: Traced) -> Traced:
    return input.scaled(-1.0)


@function("mul")
def multiply(input: Operand, other: Operand) -> Traced:
    x, constant = (input, other) if isinstance(input, Traced) else (other, input)
    assert isinstance(x, Traced)
    if isinstance(constant, Traced):
        raise x.graph.unsupported("a product of two values has no form in an .nmx file")
    return x.scaled(channels(x, constant))


@function("div")
def divide(input: Operand, other: Operand) -> Traced:
    if isinstance(other, Traced):
        raise other.graph.unsupported("division by a value has no form in an .nmx file")
    assert isinstance(input, Traced)
    return input.scaled(1 / channels(input, other))


def scaled(x: Operand, factor: float) -> Operand:
    """factor * x, of a value or a constant."""
    return x.scaled(factor) if isinstance(x, Traced) else x * factor


@function("batch_norm")
def batch_norm(
    input: Traced,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Traced:
    if training or running_mean is None or running_var is None:
        raise input.graph.unsupported("a batch-norm without running statistics depends on the batch")
    factor = 1 / torch.sqrt(running_var.double() + eps)
    factor = factor if weight is None else factor * weight.double()
    shift = -running_mean.double() * factor
    shift = shift if bias is None else shift + bias.double()
    return input.scaled(over_channels(input, factor), over_channels(input, shift))


# Convolutions and linear layers.


@function("conv2d")
def convolve(
    input: Traced,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sides = 1,
    padding: Sides | str = 0,
    dilation: Sides = 1,
    groups: int = 1,
) -> Traced:
    x, graph = on_map(input), input.graph
    if bool((x.shift != 0).any()):  # at the border, zeros are padded behind the shift
        x = graph.applied(x)
    weight = weight.double() * x.factor.view(groups, 1, -1, 1, 1).expand(
        groups, weight.shape[0] // groups, -1, 1, 1
    ).reshape(weight.shape[0], -1, 1, 1)
    dilations = pair(dilation)
    return graph.add(
        "conv",
        (x,),
        leading=1,
        weight=weight,
        bias=None if bias is None else bias,
        stride=pair(stride),
        padding=_same_padding(x, weight, pair(stride), dilations, padding),
        dilation=dilations,
        groups=groups,
    )


def _same_padding(
    x: Traced, weight: Tensor, stride: list[int], dilation: list[int], padding: Sides | str
) -> list[int]:
    if not isinstance(padding, str):
        return pair(padding)
    reach = [(side - 1) * step for side, step in zip(weight.shape[2:], dilation, strict=True)]
    if padding == "valid":
        return [0, 0]
    if stride != [1, 1] or any(length % 2 for length in reach):
        raise x.graph.unsupported("padding 'same' of an even kernel is not the same on both sides")
    return [length // 2 for length in reach]


@function("linear")
def linear(input: Traced, weight: Tensor, bias: Tensor | None = None) -> Traced:
    """A convolution whose kernel covers the map; it takes in what adaptive pooling makes of the positions."""
    graph, x = input.graph, input
    if len(x.axes) != 1:
        raise graph.unsupported(f"a linear layer works on features [F], got {list(x.axes)}")
    channels_in, height, width = graph.shape(x.node)
    weight_OCP = weight.double().view(len(weight), channels_in, -1)
    if x.resize is not None:
        weight_OCP = weight_OCP @ x.resize
    bias_O = weight_OCP.sum(2) @ x.shift
    weight_OCHW = (weight_OCP * x.factor[:, None]).reshape(len(weight), channels_in, height, width)
    return graph.add(
        "conv",
        (x,),
        axes=(weight.shape[0],),
        leading=x.leading,
        weight=weight_OCHW,
        bias=bias_O if bias is None else bias + bias_O,
        stride=[1, 1],
        padding=[0, 0],
        dilation=[1, 1],
        groups=1,
    )


# Pooling. Factor and shift pass through an average.


@function("avg_pool2d")
def average_pool(
    input: Traced,
    kernel_size: Sides,
    stride: Sides | None = None,
    padding: Sides = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Traced:
    x, graph = on_map(input), input.graph
    if ceil_mode or divisor_override is not None:
        raise graph.unsupported(
            "average pooling with ceil_mode or divisor_override has no form in an .nmx file"
        )
    if any(pair(padding)) and count_include_pad and bool((x.shift != 0).any()):
        x = graph.applied(x)
    pooled = graph.add(
        "avg_pool",
        (x,),
        leading=1,
        **_pool_keys(kernel_size, stride, padding),
        count_padding=count_include_pad,
    )
    return pooled.scaled(x.factor, x.shift)


@function("max_pool2d")
def max_pool(
    input: Traced,
    kernel_size: Sides,
    stride: Sides | None = None,
    padding: Sides = 0,
    dilation: Sides = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Traced:
    x, graph = on_map(input), input.graph
    if ceil_mode or return_indices or pair(dilation) != [1, 1]:
        raise graph.unsupported("max pooling with ceil_mode, dilation or indices has no form in an .nmx file")
    if bool((x.factor <= 0).any()):  # else the largest is not the largest
        x = graph.applied(x)
    pooled = graph.add("max_pool", (x,), leading=1, **_pool_keys(kernel_size, stride, padding))
    return pooled.scaled(x.factor, x.shift)


@function("adaptive_avg_pool2d")
def adaptive_pool(input: Traced, output_size: int | Sequence[int | None] | None) -> Traced:
    """Windows of one size are average pooling; others are left to the linear layer behind."""
    x = on_map(input)
    sides = x.axes[1:]
    given = [output_size] * 2 if output_size is None or isinstance(output_size, int) else output_size
    wanted = [side if new is None else new for side, new in zip(sides, given, strict=True)]
    if all(new == side for side, new in zip(sides, wanted, strict=True)):
        return x
    if wanted == [1, 1]:
        return mean(x, (-2, -1), keepdim=True)
    if all(side % new == 0 for side, new in zip(sides, wanted, strict=True)):
        return average_pool(x, [side // new for side, new in zip(sides, wanted, strict=True)])
    matrices = [_averages(side, new) for side, new in zip(sides, wanted, strict=True)]
    return x.replace(axes=(x.axes[0], *wanted), resize=torch.kron(*matrices))


def _averages(side: int, new: int) -> Tensor:
    """What adaptive pooling does along an axis: [new, side], each row the mean over its window."""
    rows = torch.zeros(new, side, dtype=torch.float64)
    for row in range(new):
        start, end = row * side // new, -(-(row + 1) * side // new)
        rows[row, start:end] = 1 / (end - start)
    return rows


def _pool_keys(kernel: Sides, stride: Sides | None, padding: Sides) -> dict[str, Any]:
    # F.avg_pool2d takes an empty stride for none given.
    return {"kernel": pair(kernel), "stride": pair(stride or kernel), "padding": pair(padding)}


@function("mean")
def mean(input: Traced, dim: Sides | None = None, keepdim: bool = False, *, dtype: Any = None) -> Traced:
    """Over the map; or over time, in the read-out."""
    axes = _axes(input, dim)
    if _reads_time(input, axes):
        return _read_over_time(input, "mean")
    x = on_map(input, leading=None)
    if axes != [x.leading + 1, x.leading + 2]:
        raise x.graph.unsupported(
            f"a mean or sum over axes {axes} of {list(x.shape)}; over H and W it has a form"
        )
    channels_in = x.axes[0]
    pooled = x.graph.add(
        "mean", (x,), leading=x.leading, axes=(channels_in, 1, 1) if keepdim else (channels_in,)
    )
    return pooled.scaled(x.factor, x.shift)


@function("sum")
def total(input: Traced, dim: Sides | None = None, keepdim: bool = False, *, dtype: Any = None) -> Traced:
    if _reads_time(input, _axes(input, dim)):
        return _read_over_time(input, "sum")
    height, width = on_map(input, leading=None).axes[1:]
    return mean(input, dim, keepdim).scaled(height * width)


@function("getitem")
def select(input: Traced, index: Any) -> Traced:
    if index == -1 and input.leading == 2:
        return _read_over_time(input, "last")
    raise input.graph.unsupported(f"[{index!r}] of a value has no form in an .nmx file")


def _axes(x: Traced, dim: Sides | None) -> list[int]:
    dims = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    return sorted(axis % x.dim() for axis in dims)


def _reads_time(x: Traced, axes: list[int]) -> bool:
    return x.leading == 2 and axes == [0]


def _read_over_time(x: Traced, how: Any) -> Traced:
    if x.graph.readout is not None:
        raise x.graph.unsupported("the output is read over time more than once")
    x = x.graph.applied(x)
    x.graph.readout = how
    return x.replace(leading=1)


# The same numbers, seen in other axes.


@function("flatten")
def flatten(input: Traced, start_dim: int = 0, end_dim: int = -1) -> Traced:
    start, end = start_dim % input.dim(), end_dim % input.dim()
    if start == end:
        return input
    if (start, end) == (0, 1) and input.leading == 2:
        return input.replace(leading=1)
    if (start, end) == (input.leading, input.dim() - 1):
        return input.replace(axes=(math.prod(input.axes),))
    raise input.graph.unsupported(f"flattens axes {start} to {end} of {list(input.shape)}")


@function("reshape", "view", "unflatten")
def reshape(input: Traced, *shape: Any) -> Traced:
    """Folds and unfolds time, or flattens a map."""
    wanted = [*shape[0]] if len(shape) == 1 and not isinstance(shape[0], int) else [*shape]
    if isinstance(wanted[-1], tuple | list | torch.Size):  # unflatten(0, sizes)
        wanted = [*wanted[1], *input.shape[1:]] if wanted[0] == 0 else wanted
    size = math.prod(input.axes)
    wanted = [size // math.prod(n for n in wanted if n != -1) if n == -1 else n for n in wanted]
    for leading in (1, 2):
        for axes in (input.axes, (size,)):
            if wanted == [1] * leading + [*axes] and input.leading in (1, 2):
                return input.replace(axes=axes, leading=leading)
    raise input.graph.unsupported(f"reshapes {list(input.shape)} to {wanted}")


@function("unsqueeze")
def unsqueeze(input: Traced, dim: int) -> Traced:
    if dim != 0 or input.leading != 1:
        raise input.graph.unsupported(
            f"unsqueeze({dim}) of {list(input.shape)}; only a time axis can be added"
        )
    return input.replace(leading=2)


@function("squeeze")
def squeeze(input: Traced, dim: int) -> Traced:
    if dim != 0 or input.leading != 2:
        raise input.graph.unsupported(
            f"squeeze({dim}) of {list(input.shape)}; only a time axis can be taken away"
        )
    return input.replace(leading=1)
