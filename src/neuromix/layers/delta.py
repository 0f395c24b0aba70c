"""The delta activation: what a layer sends of a video is how its quantised activation changes from frame to frame.

o_t = q round(a_t / q), with a step q = |threshold| that is learnt; under a penalty on |o_t - o_{t+1}| the steps grow
until what does not change sends nothing (Yousefzadeh & Sifalakis, 2021).

Shapes: T frames, B batch, C channels, then any axes of a map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from neuromix.core.config import Config
from neuromix.core.errors import ShapeError
from neuromix.core.observe import Tap
from neuromix.core.state import Stateful

LEAST_STEP = 1e-6
GradRule = Literal["release", "lsq"]


@dataclass(frozen=True)
class DeltaConfig(Config):
    """Config of DeltaActivation."""

    # What is given on. 0: o itself, for training; 1: [o_0, o_1 - o_0, ...], which a linear layer without bias and a
    # sum behind it turn into what it makes of o; 2: the changes alone, without the first frame.
    level: Literal[0, 1, 2] = 0
    # Of level 2. zero: [0, o_1 - o_0, ...]; released: [d_0, d_0, d_1, ...] with d_t = o_t - o_{t+1}.
    background: Literal["zero", "released"] = "zero"
    granularity: Literal["channel", "neuron", "layer"] = "channel"  # what has a step of its own
    threshold: float = 0.1  # where the steps start, not 0
    trainable: bool = True  # the steps
    bias: bool = False  # one a channel, added before the activation, from 0
    activation: Literal["none", "relu", "softmax"] = "none"  # before the rounding; softmax: over the channels
    max_pool: int | None = None  # side of a maximum over each frame, stride 1, after the rounding
    sum: bool = False  # add up the input over time first ("sigma"): it is made of changes
    penalty: float = 0.0  # of the mean |d|, >= 0
    fan_out: float = 1.0  # receivers of a change, which the penalty is multiplied by, > 0
    # Of a step: minus the sum of g round(a/q), which lets the penalty raise steps; or LSQ's, of g (round(a/q) - a/q).
    grad_rule: GradRule = "release"

    def validate(self) -> None:
        self.require(self.threshold != 0, "threshold must not be 0")
        self.require(self.penalty >= 0, f"penalty must be at least 0, got {self.penalty}")
        self.require_positive("fan_out")
        self.require(self.max_pool is None or self.max_pool > 0, "max_pool must be positive")


class DeltaState(NamedTuple):
    """Sum of the input (0 where there is none) and last output, [B, ...]; how many frames there were, [B]."""

    total: Tensor
    output: Tensor
    frames: Tensor


class DeltaActivation(Stateful):
    """x_T [T, B, C, ...] to the same shape.

    In turn: sum over time, bias, activation, rounding, maximum, changes; see DeltaConfig. The tap "delta" carries the
    differences d [T-1, B, ...] of frames that follow each other - [T, B, ...] from a carried state, zero where it has
    had no frame - and the tap "aux_loss" penalty * fan_out * mean |d|.

    Args:
        shape: of a frame of one sample, (C, ...); what lies behind C matters for steps of each neuron only.
        activation: in place of the one that the config names.
    """

    def __init__(
        self, config: DeltaConfig, shape: tuple[int, ...], activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.config = config
        steps = {"channel": shape[:1], "neuron": shape, "layer": (1,)}[config.granularity]
        self.threshold = nn.Parameter(torch.full(steps, config.threshold), requires_grad=config.trainable)
        self.bias = nn.Parameter(torch.zeros(shape[0])) if config.bias else None
        self.activation = activation if activation is not None else _ACTIVATIONS[config.activation]()
        self.delta, self.aux_loss = Tap("delta"), Tap("aux_loss")

    def steps(self, dims: int) -> Tensor:
        """q, to be broadcast over a frame [B, C, ...] of so many axes."""
        size = self.threshold.abs()
        q = size + (size.clamp(min=LEAST_STEP) - size).detach()  # a step may cross zero and come back
        return _over_map(q, dims) if self.config.granularity == "channel" else q

    def initial_state(self, like: Tensor) -> DeltaState:
        zeros = torch.zeros_like(like)
        total = zeros.clone() if self.config.sum else like.new_zeros(len(like))
        return DeltaState(total, zeros, torch.zeros(len(like), dtype=torch.int64, device=like.device))

    def forward(self, x_T: Tensor, state: DeltaState | None = None, *, return_state: bool = False) -> Any:
        if x_T.dim() < 3 or len(x_T) == 0 or not x_T.is_floating_point():
            raise ShapeError(f"a delta layer expects floating point [T, B, C, ...], got {list(x_T.shape)}")
        known = state is not None
        state = self.initial_state(x_T[0]) if state is None else state
        total = state.total
        if self.config.sum:
            x_T, total = _running_sum(x_T, total)
        if self.bias is not None:
            x_T = x_T + _over_map(self.bias, x_T.dim() - 1)
        levels_T = _Quantise.apply(  # type: ignore[no-untyped-call]
            self.activation(x_T), self.steps(x_T.dim() - 1), self.config.grad_rule
        )
        o_T = self._pooled(levels_T)
        seen_B = _column(state.frames > 0, o_T.dim() - 1)
        before_T = torch.cat([torch.where(seen_B, state.output, o_T[0])[None], o_T[:-1]])
        d_T = before_T - o_T
        self._tell(d_T if known else d_T[1:])
        y_T = self._sent(o_T, d_T, state, seen_B)
        after = DeltaState(total, o_T[-1], state.frames + len(x_T))
        return (y_T, after) if return_state else y_T

    def _pooled(self, o_T: Tensor) -> Tensor:
        size = self.config.max_pool
        if size is None:
            return o_T
        if o_T.dim() != 5:
            raise ShapeError(f"a maximum over maps needs [T, B, C, H, W], got {list(o_T.shape)}")
        low = (size - 1) // 2
        padded = F.pad(o_T.flatten(0, 1), (low, size - 1 - low) * 2, value=-torch.inf)
        return F.max_pool2d(padded, size, 1).view_as(o_T)

    def _tell(self, d_T: Tensor) -> None:
        self.delta(d_T)
        if self.config.penalty > 0 and d_T.numel():
            self.aux_loss(self.config.penalty * self.config.fan_out * d_T.abs().mean())

    def _sent(self, o_T: Tensor, d_T: Tensor, state: DeltaState, seen_B: Tensor) -> Tensor:
        if self.config.level == 0:
            return o_T
        if self.config.level == 1:
            return torch.cat([(o_T[0] - torch.where(seen_B, state.output, 0))[None], -d_T[1:]])
        if self.config.background == "zero":
            return -d_T  # the first d of all is 0
        if len(d_T) == 1 and not bool(seen_B.all()):
            raise ShapeError(
                'background "released" starts with the second frame: it needs two of them at once'
            )
        first = torch.where(seen_B, d_T[0], d_T[1] if len(d_T) > 1 else 0)
        return torch.cat([first[None], d_T[1:]])

    def extra_repr(self) -> str:
        return f"level={self.config.level}, steps={list(self.threshold.shape)}"


class L1Activation(nn.Module):
    """What delta layers are held to: the same penalty on the activation itself, which is not rounded.

    The tap "aux_loss" carries penalty * fan_out * mean |a|.
    """

    def __init__(self, penalty: float, fan_out: float = 1.0, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.penalty, self.fan_out = penalty, fan_out
        self.activation = activation if activation is not None else nn.ReLU()
        self.aux_loss = Tap("aux_loss")

    def forward(self, x: Tensor) -> Tensor:
        a: Tensor = self.activation(x)
        if self.penalty > 0 and a.numel():
            self.aux_loss(self.penalty * self.fan_out * a.abs().mean())
        return a

    def extra_repr(self) -> str:
        return f"penalty={self.penalty}, fan_out={self.fan_out}"


class EventCount(NamedTuple):
    """How many of the numbers of a layer changed from one frame to the next, and how many there were."""

    events: int
    elements: int

    @property
    def sparsity(self) -> float:
        """The share that did not change; 1 where there was no second frame."""
        return 1 - self.events / self.elements if self.elements else 1.0


@contextmanager
def counted_events(model: nn.Module) -> Iterator[dict[str, EventCount]]:
    """Counts the changes of every delta layer while the context is open.

    Yields:
        path of the layer -> its count, which grows from call to call.
    """
    counts: dict[str, EventCount] = {}
    handles = []
    for path, layer in model.named_modules():
        if isinstance(layer, DeltaActivation):
            counts[path] = EventCount(0, 0)

            def add(_: nn.Module, __: Any, d_T: Tensor, path: str = path) -> None:
                before = counts[path]
                counts[path] = EventCount(
                    before.events + int(d_T.count_nonzero()), before.elements + d_T.numel()
                )

            handles.append(layer.delta.register_forward_hook(add))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


class _Quantise(torch.autograd.Function):
    """q round(a/q), half to even."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, q: Tensor, rule: GradRule) -> Tensor:
        levels = (a / q).round()
        ctx.save_for_backward(-levels if rule == "release" else levels - a / q)
        ctx.shape = q.shape
        return levels * q

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (of_step,) = ctx.saved_tensors
        return grads[0], (grads[0] * of_step).sum_to_size(ctx.shape), None


class _ChannelSoftmax(nn.Module):
    def forward(self, x_T: Tensor) -> Tensor:
        return x_T.softmax(2)


_ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU, "softmax": _ChannelSoftmax}


def _running_sum(x_T: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """The sums up to each frame, added one by one as in step form, and the last."""
    sums = []
    for x in x_T:
        total = total + x
        sums.append(total)
    return torch.stack(sums), total


def _over_map(values_C: Tensor, dims: int) -> Tensor:
    """[C] to be broadcast over [B, C, ...] of so many axes."""
    return values_C.view(-1, *(1,) * (dims - 2))


def _column(values_B: Tensor, dims: int) -> Tensor:
    return values_B.view(-1, *(1,) * (dims - 1))
