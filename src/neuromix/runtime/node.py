"""Nodes: what a program consists of, and the limits of the `.nmx` format.

Shapes: a value is [C, H, W] for one step; O output channels of a convolution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

from neuromix.core.errors import ProgramError

MAX_NODES = 4096
MAX_SIDE = 65536  # of a map; also the most channels
MAX_ELEMENTS = 2**28  # of a value, for one step
MAX_LEVELS = 255
MAX_STEPS = 65536

Shape: TypeAlias = tuple[int, int, int]
Readout: TypeAlias = Literal["mean", "sum", "last"]


class ValueType(NamedTuple):
    """What the elements of a value are: real numbers, bits, or integers 0..levels."""

    name: Literal["real", "binary", "integer"]
    levels: int = 0


REAL, BINARY = ValueType("real"), ValueType("binary", 1)


class Edge(NamedTuple):
    """Shape and type of the value of a node."""

    shape: Shape
    type: ValueType = REAL


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: one of `operations.OPERATIONS`.
        name: qualified name of the module that it comes from.
        inputs: the nodes that it reads, all before it.
        keys: the keys of the operation; a weight is its tensor.
    """

    op: str
    name: str
    inputs: tuple[int, ...] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.keys[key]

    def replace(self, **keys: Any) -> Node:
        """The node with some of its keys changed; None takes one away."""
        kept = {
            key: value for key, value in {**self.keys, **keys}.items() if value is not None or key == "bias"
        }
        return dataclasses.replace(self, keys=kept)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights by key."""
        return {key: value for key, value in self.keys.items() if isinstance(value, Tensor)}


def is_integer(value: object) -> bool:
    """Whether it is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def require(condition: bool, rule: str, got: object) -> None:
    """Raises ProgramError with the rule and what was found, unless the condition holds."""
    if not condition:
        text = repr(got)
        raise ProgramError(f"{rule}, got {text if len(text) < 80 else text[:76] + ' ...'}")
