"""Stateful leaves: whatever mixes time keeps no state, it takes and returns it.

One convention for neurons and sequence mixers alike, so that any of them can be run over a whole sequence, in
segments, or step by step, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# A NamedTuple of tensors, batch axis first. (A tuple to the type checker: each leaf has its own.)
State: TypeAlias = tuple[Any, ...]


class Stateful(nn.Module):
    """A module whose output at one step depends on earlier steps.

    Attributes:
        time_axis: the axis of its input that it steps along: 0 for spike time, 1 for tokens.
        latency: steps of look-ahead that its output lags behind its input in step form.
        tail: steps that its output goes on for after the end of its input. A module that has some takes one more
            argument, `ends`: whether the input ends here; None: unless its state is asked for.
    """

    time_axis: ClassVar[int] = 0
    latency: int = 0
    tail: int = 0

    def initial_state(self, like: Tensor) -> State:
        """The state before the first step.

        Args:
            like: the input of one step, without the time axis; gives batch size, shape, dtype and device.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, state: Any = None, *, return_state: bool = False) -> Any:
        """Runs over the whole time axis of `x`, from `state` (None: from the initial state).

        Returns:
            y, or (y, state after the last step) if `return_state`.
        """
        raise NotImplementedError

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step: `x_t` has no time axis. Returns (y_t, state)."""
        y, state = self(x_t.unsqueeze(self.time_axis), state, return_state=True)
        return y.squeeze(self.time_axis), state


def map_state(function: Callable[[Tensor], Any], state: Any) -> Any:
    """`function` applied to every tensor of any state: of one leaf, or of a whole streamed model."""
    return pytree.tree_map_only(Tensor, function, state)


def detach(state: Any) -> Any:
    """The state cut from the graph that made it."""
    return map_state(Tensor.detach, state)


def select(state: Any, indices: Tensor) -> Any:
    """The state of some samples of the batch."""
    return map_state(lambda tensor: tensor.index_select(0, indices.to(tensor.device)), state)


def state_bytes(state: Any) -> int:
    """Memory that a state takes, in bytes."""
    return sum(leaf.nbytes for leaf in pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor))
