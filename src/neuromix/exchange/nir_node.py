"""GraphNode: a node of a graph that is read, whose fields are checked before they are believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuromix.core.config import Spec
from neuromix.core.errors import CheckpointError
from neuromix.runtime.node import MAX_SIDE

Shape: TypeAlias = tuple[int, ...]
Values: TypeAlias = NDArray[Any]


class Reading(NamedTuple):
    """How a graph is read.

    Attributes:
        dt: the time step in seconds.
        strict: a neuron fires above its threshold, not at it.
        surrogate: of the neurons, for training.
        tails: node -> steps that its output goes on for after the end of its input.
    """

    dt: float
    strict: bool
    surrogate: Spec | str
    tails: Mapping[str, int]


class GraphNode:
    """A node with the shape of what it reads, and checked access to its fields."""

    def __init__(self, name: str, node: Any, shape: Shape, reading: Reading) -> None:
        self.name, self.node, self.shape, self.reading = name, node, shape, reading
        self.kind = type(node).__name__

    def damaged(self, problem: str) -> CheckpointError:
        return CheckpointError(f"node {self.name!r} ({self.kind}): {problem}")

    def values(self, field: str) -> Values:
        """An array of finite numbers."""
        value = getattr(self.node, field)
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise self.damaged(f"{field} must hold real numbers, got {array.dtype}")
        if not np.isfinite(array).all():
            raise self.damaged(f"{field} holds NaN or infinity")
        return array

    def weight(self, field: str, axes: int) -> Tensor:
        array = self.values(field)
        if array.ndim != axes or not array.size:
            raise self.damaged(f"{field} must have {axes} axes, got {list(array.shape)}")
        return torch.tensor(array, dtype=torch.float32)

    def bias(self, outputs: int) -> Tensor | None:
        """None where it is zero, so that a layer without one comes back as one."""
        bias = self.weight("bias", 1)
        if len(bias) != outputs:
            raise self.damaged(f"bias must be [{outputs}], got {list(bias.shape)}")
        return bias if bias.any() else None

    def sides(self, field: str, count: int, least: int) -> tuple[int, ...]:
        """One number for all sides, or one each."""
        array = self.values(field).reshape(-1)
        array = np.repeat(array, count) if array.size == 1 else array
        if array.size != count or (array != array.astype(np.int64)).any() or (array < least).any():
            raise self.damaged(f"{field} must be {count} whole numbers from {least} on, got {array.tolist()}")
        if (array > MAX_SIDE).any():
            raise self.damaged(f"{field} is at most {MAX_SIDE}, got {array.tolist()}")
        return tuple(int(side) for side in array)

    def require_axes(self, axes: int) -> None:
        if len(self.shape) != axes:
            expected = {1: "features [F]", 2: "[C, L]", 3: "a map [C, H, W]"}[axes]
            raise self.damaged(f"reads {expected}, got {list(self.shape)}")

    def windows(
        self,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> Shape:
        """Sides of what windows give that slide over the input."""
        reach = [step * (length - 1) + 1 for step, length in zip(dilation, kernel, strict=True)]
        padded = [side + 2 * pad for side, pad in zip(self.shape[1:], padding, strict=True)]
        if any(length > side for length, side in zip(reach, padded, strict=True)):
            raise self.damaged(f"its window {list(kernel)} is larger than the padded input {padded}")
        return tuple(
            (side - length) // step + 1 for side, length, step in zip(padded, reach, stride, strict=True)
        )

    def over(self, field: str) -> NDArray[np.float64]:
        """A number for each place of the value; one for all is spread out."""
        array = self.values(field).astype(np.float64)
        if array.shape not in ((), (1,), self.shape):
            raise self.damaged(f"{field} must be {list(self.shape)}, as its input, got {list(array.shape)}")
        return np.broadcast_to(array, self.shape)
