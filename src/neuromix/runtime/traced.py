"""Traced: what takes the place of a tensor while a model is lowered.

It goes through the model's own forward and has a real shape, so that ordinary Python code - a branch on a size, a
`fold` - runs as always. T and B are 1: what is lowered is one step of one sample. Each operation on it adds nodes
to a graph, by the rule of its name in `FUNCTIONS`.

A factor and a shift of each channel are carried along until something reads the value: a convolution, a neuron
or an average takes the factor into its own weights, and so spikes of any height stay spikes.

Shapes: T spike time, B batch, C channels, H W feature map.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from neuromix.runtime.graph import Graph

Rule = Callable[..., Any]
R = TypeVar("R", bound=Rule)
# What models do to tensors, by the name that PyTorch has for it.
FUNCTIONS: dict[str, Rule] = {}


def function(*names: str) -> Callable[[R], R]:
    """Registers the rule of a PyTorch function or method; it takes the arguments that these take."""

    def decorate(rule: R) -> R:
        FUNCTIONS.update(dict.fromkeys(names, rule))
        return rule

    return decorate


@dataclass(frozen=True, eq=False)
class Traced:
    """The value of a node as a model sees it: factor * value + shift, in the axes of the model.

    Attributes:
        node: the node that computes it, [C, H, W].
        axes: its axes behind time and batch: (C, H, W), or (C,) after pooling, or (C*H*W,) flattened, ...
        leading: 2 with time and batch, [T, B, ...]; 1 where the two are folded into one, and behind
            the read-out.
        factor, shift: a number for each channel of the node, float64 [C].
        resize: what adaptive pooling makes of the positions, [new positions, H*W], where only a linear layer
            can take it in.
    """

    graph: Graph
    node: int
    axes: tuple[int, ...]
    leading: int
    factor: Tensor
    shift: Tensor
    resize: Tensor | None = None

    @classmethod
    def of(cls, graph: Graph, node: int, axes: tuple[int, ...], leading: int) -> Traced:
        """The plain value of a node."""
        channels = graph.shape(node)[0]
        factor, shift = torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
        return cls(graph, node, axes, leading, factor, shift)

    def replace(self, **fields: Any) -> Traced:
        """The same value seen in another way."""
        return dataclasses.replace(self, **fields)

    def scaled(self, factor: Tensor | float, shift: Tensor | float = 0.0) -> Traced:
        """factor * value + shift."""
        return self.replace(factor=self.factor * factor, shift=self.shift * factor + shift)

    # What a model asks a tensor.

    @property
    def shape(self) -> torch.Size:
        return torch.Size((1,) * self.leading + self.axes)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    dtype, device, requires_grad, is_quantized = torch.float64, torch.device("cpu"), False, False

    def dim(self) -> int:
        return len(self.shape)

    def size(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    def is_floating_point(self) -> bool:
        return True

    def __len__(self) -> int:
        return self.shape[0]

    @classmethod
    def __torch_function__(
        cls, called: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return apply(called.__name__, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not callable(getattr(Tensor, name, None)):
            raise AttributeError(name)
        return lambda *args, **kwargs: apply(name, (self, *args), kwargs)

    def __add__(self, other: Any) -> Any:
        return apply("add", (self, other))

    def __sub__(self, other: Any) -> Any:
        return apply("sub", (self, other))

    def __rsub__(self, other: Any) -> Any:
        return apply("sub", (other, self))

    def __mul__(self, other: Any) -> Any:
        return apply("mul", (self, other))

    def __truediv__(self, other: Any) -> Any:
        return apply("div", (self, other))

    def __rtruediv__(self, other: Any) -> Any:
        return apply("div", (other, self))

    def __matmul__(self, other: Any) -> Any:
        return apply("matmul", (self, other))

    def __neg__(self) -> Any:
        return apply("neg", (self,))

    def __getitem__(self, index: Any) -> Any:
        return apply("getitem", (self, index))

    __radd__, __rmul__ = __add__, __mul__


def apply(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Runs the rule of a PyTorch function.

    Raises:
        UnsupportedError: there is none, or it does not take these arguments.
    """
    name = name[2:-2] if name.startswith("__") and name.endswith("__") else name
    graph = next(value.graph for value in tree_leaves((args, kwargs)) if isinstance(value, Traced))
    rule = FUNCTIONS.get(name)
    if rule is None:
        raise graph.unsupported(
            f"{name}() has no form in an .nmx file; known: {', '.join(sorted(FUNCTIONS))}"
        )
    try:
        inspect.signature(rule).bind(*args, **kwargs)
    except TypeError as error:
        raise graph.unsupported(f"{name}(): {error}") from None
    return rule(*args, **kwargs)
