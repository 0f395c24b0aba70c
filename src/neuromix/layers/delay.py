"""Synapses with a weight and a delay, both learnt: dilated convolutions with learnable spacings along time (DCLS).

Every pair of an input and an output has K synapses. A synapse is a bump in a kernel over D time steps: its weight is
the height, its position the centre, and it narrows in training until it is one tap. Index D-1 of a kernel multiplies
the present input and index 0 that of D-1 steps ago, so nothing looks ahead.

After its input has ended, a layer goes on for `tail` steps, in which late spikes come out: it gives T + tail steps.

Shapes: T time, B batch, I inputs, O outputs, K synapses of a pair, D steps of a kernel.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.config import Config
from neuromix.core.edits import register_edit, replace_modules
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import Model
from neuromix.core.state import Stateful

Bump: TypeAlias = Literal["gauss", "max", "v1", "v0"]

TINY = 1e-7  # keeps the sum of a bump above 0
NARROWEST = {"gauss": 0.27, "max": 1.0, "v1": 1.0}  # the width of a bump that is given the width 0


def bumps(position: Tensor, width: Tensor, steps: int, bump: Bump) -> Tensor:
    """The kernel of each synapse before its weight: [..., D] for positions and widths [...].

    With c = position + floor(D/2), i = 0..D-1 and s = |width| + NARROWEST: "gauss" is exp(-((i - c)/s)^2 / 2), "max"
    is max(0, s - |i - c|), "v1" that with s = 1, each over its sum; "v0" shares 1 between floor(c) and floor(c) + 1.
    """
    i_D = torch.arange(steps, device=position.device, dtype=position.dtype)
    centre = (position + steps // 2)[..., None]
    if bump == "v0":
        before = centre.detach().floor()
        after = centre - before
        return (i_D == before) * (1 - after) + (i_D == before + 1) * after
    s = NARROWEST[bump] + (0.0 if bump == "v1" else width.abs()[..., None])
    off = i_D - centre
    g = torch.exp(-0.5 * (off / s) ** 2) if bump == "gauss" else (s - off.abs()).clamp(min=0)
    return g / (g.sum(-1, keepdim=True) + TINY)


def delay_kernel(
    weight_OIK: Tensor, position_OIK: Tensor, width_OIK: Tensor, steps: int, bump: Bump
) -> Tensor:
    """The dense kernel of a layer: the bumps of its synapses times their weights, [O, I, D]."""
    return (weight_OIK[..., None] * bumps(position_OIK, width_OIK, steps, bump)).sum(2)


def delayed_sum(
    x_BIS: Tensor, weight_OIK: Tensor, delay_OIK: Tensor, steps: int, bias_O: Tensor | None = None
) -> Tensor:
    """y[b, o, t] = bias[o] + sum over i and k of weight[o, i, k] * x[b, i, t + D-1 - delay[o, i, k]], by gathering.

    It reads one input a synapse, where a dense kernel multiplies all D of them.

    Args:
        x_BIS: inputs, [B, I, T+D-1].
        delay_OIK: int64, in [0, D-1].
        steps: D.

    Returns:
        [B, O, T].
    """
    batch, inputs, length = x_BIS.shape
    # Row (i, c) of the table is what all T*B outputs see of input i through tap c of a kernel.
    width = (length - steps + 1) * batch
    table = x_BIS.permute(1, 2, 0).reshape(inputs, -1).unfold(1, width, batch).flatten(0, 1)
    first = torch.arange(inputs, device=x_BIS.device)[:, None] * steps
    rows = (first + steps - 1 - delay_OIK).flatten(1)
    y_OX = F.embedding_bag(rows, table, mode="sum", per_sample_weights=weight_OIK.flatten(1).to(table.dtype))
    y_BOT = y_OX.reshape(len(y_OX), -1, batch).movedim(2, 0)
    return y_BOT if bias_O is None else y_BOT + bias_O[:, None]


class DelayState(NamedTuple):
    """The last D-1 inputs, the oldest first: [B, D-1, I]."""

    past: Tensor


class DelayedSum(Stateful):
    """What layers with delays share: the inputs of the last steps as their state, and the steps after the end.

    Attributes:
        weight: [O, I, K].
        bias: [O], or None.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, in_channels: int, out_channels: int, max_delay: int, tail: int | None) -> None:
        super().__init__()
        if max_delay < 1 or max_delay % 2 == 0:
            raise ConfigError(f"max_delay is an odd number of steps, 1 or more; given {max_delay}")
        self.in_channels, self.out_channels, self.max_delay = in_channels, out_channels, max_delay
        self.tail = max_delay // 2 if tail is None else tail

    def initial_state(self, like: Tensor) -> DelayState:
        return DelayState(like.new_zeros(len(like), self.max_delay - 1, self.in_channels))

    def forward(
        self,
        x_TBI: Tensor,
        state: DelayState | None = None,
        *,
        return_state: bool = False,
        ends: bool | None = None,
    ) -> Any:
        """[T, B, I] to [T + tail, B, O], or to [T, B, O] where more is to come.

        Args:
            ends: whether the input ends here; None: unless the state is asked for.

        Raises:
            ShapeError: another number of channels.
        """
        if x_TBI.dim() != 3 or x_TBI.shape[2] != self.in_channels:
            raise ShapeError(f"expected [T, B, {self.in_channels}], got {list(x_TBI.shape)}")
        if state is None:
            state = self.initial_state(x_TBI.new_zeros(x_TBI.shape[1:]))
        ends = not return_state if ends is None else ends
        x_BIS = torch.cat([state.past, x_TBI.transpose(0, 1)], 1).transpose(1, 2)
        y_TBO = self.summed(F.pad(x_BIS, (0, self.tail)) if ends else x_BIS).movedim(2, 0)
        if not return_state:
            return y_TBO
        return y_TBO, DelayState(x_BIS[:, :, x_BIS.shape[2] - self.max_delay + 1 :].transpose(1, 2))

    def summed(self, x_BIS: Tensor) -> Tensor:
        """Every output from the D inputs up to its step: [B, I, T+D-1] to [B, O, T]."""
        raise NotImplementedError

    @torch.no_grad()
    def scaled(self, scale_O: Tensor, shift_O: Tensor) -> Self:
        """This layer with its outputs y as y * scale + shift."""
        layer = copy.deepcopy(self)
        layer.weight.mul_(scale_O[:, None, None])
        layer.bias = nn.Parameter(shift_O if self.bias is None else self.bias * scale_O + shift_O)
        return layer

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, max_delay={self.max_delay}, tail={self.tail}"


class Delay(DelayedSum):
    """A layer whose synapses learn their weights and their delays, d = floor(D/2) - position, in [0, D-1] steps.

    In eval mode positions are rounded (half to even), so that a synapse is one tap, as on a chip; nothing stored
    changes. `position` starts evenly spread, `width` - no parameter - is to be lowered while training goes on.

    Args:
        in_channels, out_channels: I and O.
        max_delay: D, odd.
        synapses: K.
        bump: the form of a synapse, see `bumps`.
        width: at the start; None: floor(D/2).
        learns: False freezes positions where they fall, rounded in training too.
        rounds: False keeps eval mode as training is.
        tail: steps that the output goes on after the end of the input; None: floor(D/2).

    Example:
        y_TBO = Delay(140, 256, max_delay=25)(x_TBI)   # [T, B, 140] to [T + 12, B, 256]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        max_delay: int,
        *,
        synapses: int = 1,
        bump: Bump = "gauss",
        width: float | None = None,
        learns: bool = True,
        rounds: bool = True,
        bias: bool = False,
        tail: int | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, max_delay, tail)
        self.bump, self.learns, self.rounds = bump, learns, rounds
        self.start_width = float(max_delay // 2) if width is None else width
        shape = (out_channels, in_channels, synapses)
        self.weight = nn.Parameter(torch.empty(shape))
        self.position = nn.Parameter(torch.empty(shape), requires_grad=learns)
        self.register_buffer("width", torch.full(shape, self.start_width))
        self.width: Tensor
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        nn.init.uniform_(self.position, -math.ceil(max_delay / 2), max_delay // 2)
        if self.bias is not None:
            bound = 1 / math.sqrt(in_channels * synapses)
            nn.init.uniform_(self.bias, -bound, bound)
        self.after_step()

    @torch.no_grad()
    def after_step(self) -> None:
        """Keeps positions inside the kernel."""
        self.position.clamp_(-(self.max_delay // 2), self.max_delay // 2)

    @torch.no_grad()
    def narrow(self, factor: float, least: float) -> None:
        """Multiplies the widths that are above `least`."""
        self.width.copy_(torch.where(self.width > least, self.width * factor, self.width))

    @property
    def rounded(self) -> Tensor:
        """The positions as whole steps, [O, I, K]."""
        half = self.max_delay // 2
        return self.position.detach().round().clamp(-half, half)

    @property
    def delay(self) -> Tensor:
        """The delays as whole steps, [O, I, K], int64, in [0, D-1]."""
        return (self.max_delay // 2 - self.rounded).long()

    def kernel(self, *, smooth: bool = True) -> Tensor:
        """The dense kernel, [O, I, D]: of the synapses as they are, or with one tap each."""
        if smooth:
            return delay_kernel(self.weight, self.position, self.width, self.max_delay, self.bump)
        return delay_kernel(self.weight, self.rounded, self.width, self.max_delay, "v1")

    def summed(self, x_BIS: Tensor) -> Tensor:
        if self.learns and (self.training or not self.rounds):
            return F.conv1d(x_BIS, self.kernel(), self.bias)
        return delayed_sum(x_BIS, self.weight / (1 + TINY), self.delay, self.max_delay, self.bias)

    def discrete(self) -> DiscreteDelay:
        """The same layer as one tap a synapse, which cannot learn delays any more."""
        shape = (self.in_channels, self.out_channels, self.max_delay)
        layer = DiscreteDelay(*shape, self.weight.shape[2], self.bias is not None, self.tail).to(self.weight)
        with torch.no_grad():
            layer.weight.copy_(self.weight / (1 + TINY))
            layer.delay.copy_(self.delay)
            if layer.bias is not None and self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer.train(self.training)


class DiscreteDelay(DelayedSum):
    """Synapses with a weight and a delay of whole steps, see `delayed_sum`.

    Attributes:
        delay: [O, I, K], int64, in [0, D-1] steps.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        max_delay: int,
        synapses: int = 1,
        bias: bool = False,
        tail: int | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, max_delay, tail)
        shape = (out_channels, in_channels, synapses)
        self.weight = nn.Parameter(torch.zeros(shape))
        self.register_buffer("delay", torch.zeros(shape, dtype=torch.int64))
        self.delay: Tensor
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def summed(self, x_BIS: Tensor) -> Tensor:
        return delayed_sum(x_BIS, self.weight, self.delay, self.max_delay, self.bias)


@dataclass(frozen=True)
class DiscretiseConfig(Config):
    """Config of the edit "discretise"."""


@register_edit("discretise", DiscretiseConfig)
def discretise(model: Model, config: DiscretiseConfig) -> Model:
    """Makes of each learnt delay a whole number of steps, read as one tap; same outputs in eval mode.

    Raises:
        ConfigError: the model has no learnt delays.
    """
    if not any(isinstance(module, Delay) for module in model.modules()):
        raise ConfigError(f"{type(model).__name__} has no delays to discretise")
    replace_modules(model, lambda module: module.discrete() if isinstance(module, Delay) else None)
    return model
