"""The mean of all steps so far: a read-out that has an answer at any time.

Shapes: T time, B batch, then any axes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuromix.core.state import Stateful


class RunningMeanState(NamedTuple):
    """The sum of the steps so far, [B, ...], and their number, [B]."""

    total: Tensor
    steps: Tensor


class RunningMean(Stateful):
    """y[t] = (x[0] + ... + x[t]) / (t + 1): [T, B, ...] to the same shape."""

    def initial_state(self, like: Tensor) -> RunningMeanState:
        return RunningMeanState(torch.zeros_like(like), like.new_zeros(len(like)))

    def forward(
        self, x_T: Tensor, state: RunningMeanState | None = None, *, return_state: bool = False
    ) -> Any:
        if state is None:
            state = self.initial_state(x_T.new_zeros(x_T.shape[1:]))
        total_T = state.total + x_T.cumsum(0)
        steps_T = torch.arange(1, len(x_T) + 1, device=x_T.device, dtype=x_T.dtype)
        count_TB = state.steps + steps_T[:, None]
        y_T = total_T / count_TB.view(*count_TB.shape, *(1,) * (x_T.dim() - 2))
        return (y_T, RunningMeanState(total_T[-1], count_TB[-1])) if return_state else y_T
