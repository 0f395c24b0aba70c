"""Layers over time that look a few steps ahead, as a convolution with a centred kernel does.

Over a whole sequence the output has the length of the input, with zeros beyond both ends. Step by step the output for
a step is there `latency` steps later: the first steps give none, and the last come once the input has ended. Layers
that follow are then given [0, B, C] at first, see `Steps`.

Shapes: T time, B batch, C channels, S steps that are at hand, R steps looked ahead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.state import Stateful
from neuromix.core.time import fold


class LookAheadState(NamedTuple):
    """The last 2R inputs, the oldest first, [B, S, C]: R zeros before the first step, S = 2R from the R-th on."""

    past: Tensor


class LookAhead(Stateful):
    """y[t] = f(x[t-R], ..., x[t+R]). By itself y[t] = x[t] - once x[t+R] is there, as a skip around such layers wants.

    Args:
        ahead: R.
    """

    def __init__(self, ahead: int) -> None:
        super().__init__()
        if ahead < 0:
            raise ConfigError(f"a layer looks 0 steps ahead or more; given {ahead}")
        self.latency = self.tail = ahead

    def initial_state(self, like: Tensor) -> LookAheadState:
        return LookAheadState(like.new_zeros(len(like), self.latency, *like.shape[1:]))

    def forward(
        self,
        x_TBC: Tensor,
        state: LookAheadState | None = None,
        *,
        return_state: bool = False,
        ends: bool | None = None,
    ) -> Any:
        """[T, B, C] to [T, B, O]; where more is to come, to the steps for which all is there, which may be none.

        Args:
            ends: whether the input ends here; None: unless the state is asked for.
        """
        if state is None:
            state = self.initial_state(x_TBC.new_zeros(x_TBC.shape[1:]))
        at_hand_SBC = torch.cat([state.past.transpose(0, 1), x_TBC])
        ends = not return_state if ends is None else ends
        y_TBO = self.seen(F.pad(at_hand_SBC, (0, 0, 0, 0, 0, self.latency)) if ends else at_hand_SBC)
        if not return_state:
            return y_TBO
        kept = max(0, len(at_hand_SBC) - 2 * self.latency)
        return y_TBO, LookAheadState(at_hand_SBC[kept:].transpose(0, 1))

    def seen(self, x_SBC: Tensor) -> Tensor:
        """The outputs of the steps that have R steps on both sides: [S, B, C] to [max(0, S - 2R), B, O]."""
        return x_SBC[self.latency : max(self.latency, len(x_SBC) - self.latency)]


class LookAheadConv(LookAhead):
    """A convolution over time with a centred kernel of odd width, without bias.

    Attributes:
        weight: [O, C, width].
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 3) -> None:
        super().__init__(width // 2)
        if width % 2 == 0:
            raise ConfigError(f"a kernel that looks as far ahead as back has an odd width; given {width}")
        self.weight = nn.Parameter(nn.Conv1d(in_channels, out_channels, width, bias=False).weight.detach())

    def seen(self, x_SBC: Tensor) -> Tensor:
        outputs, channels, width = self.weight.shape
        if x_SBC.shape[2] != channels:
            raise ShapeError(f"expected [T, B, {channels}], got {list(x_SBC.shape)}")
        if len(x_SBC) < width:
            return x_SBC.new_zeros(0, x_SBC.shape[1], outputs)
        return F.conv1d(x_SBC.permute(1, 2, 0), self.weight).permute(2, 0, 1)

    def extra_repr(self) -> str:
        outputs, channels, width = self.weight.shape
        return f"{channels}, {outputs}, width={width}"


class Steps(nn.Sequential):
    """As nn.Sequential, for steps [T, B, C] of which there may be none yet: then only what looks ahead is run."""

    def forward(self, x_TBC: Tensor) -> Tensor:
        for module in self:
            if len(x_TBC) or isinstance(module, LookAhead):
                x_TBC = module(x_TBC)
        return x_TBC


class StepNorm(nn.BatchNorm1d):
    """Batch-norm over T and B together: [T, B, C] to the same shape."""

    def forward(self, x_TBC: Tensor) -> Tensor:
        return fold(super().forward, x_TBC)
