"""Dropout that drops the same elements at every time step.

Shapes: T spike time, B batch, then any axes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from neuromix.core.observe import Noise
from neuromix.core.state import Stateful


class DropoutState(NamedTuple):
    """What each step is multiplied by: 0 or 1/(1 - rate), [B, ...]; a 1 a sample outside training."""

    mask: Tensor


class SequenceDropout(Stateful):
    """Dropout with one mask a sequence, drawn at the first step: the mask is its state.

    A mask a step would let another part of the net through at each of them, and a neuron could not add up over
    time what it is being sent.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.noise = Noise()

    def initial_state(self, like: Tensor) -> DropoutState:
        if not self.training or self.rate == 0:
            return DropoutState(like.new_ones(like.shape[:1] + (1,) * (like.dim() - 1)))
        keep = 1 - self.rate
        return DropoutState((self.noise.uniform(tuple(like.shape), like) < keep).to(like.dtype) / keep)

    def forward(self, x_T: Tensor, state: DropoutState | None = None, *, return_state: bool = False) -> Any:
        """x_T: [T, B, ...], any floating dtype."""
        if state is None:
            state = self.initial_state(x_T[0])
        y_T = x_T * state.mask if self.training and self.rate > 0 else x_T
        return (y_T, state) if return_state else y_T

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
