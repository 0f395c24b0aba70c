"""What the kernels of `lif` are given, on any device.

Shapes: T spike time, then any neuron axes; C channels.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from torch import Tensor


class Call(NamedTuple):
    """What a call is given beside tensors, in the order of the op's schema."""

    row: list[float]  # decay, gain, offset, threshold, height, extra_decay, strength; where there is no table
    v_init: float
    v_reset: float
    fire_at: float
    reset: str  # hard, soft, next or none
    extra_kind: str  # none, synapse or adaptation
    strict: bool
    detach_reset: bool
    ratio: bool
    surrogate: str
    shape: float
    scale: float
    closed: bool
    channel_axis: int  # of a step
    return_state: bool


class Inputs(NamedTuple):
    """The tensors of a call, with dense steps of one layout, and how they are walked over."""

    x_T: Tensor
    v: Tensor | None  # before the first step; None: v_init
    extra: Tensor | None  # None: 0
    table: Tensor | None  # [7, C], contiguous; None: the coefficients are numbers
    steps: int
    neurons: int  # of a step
    channels: int
    inner: int  # neuron n is of channel n // inner % channels


# The output and the last state (v, extra), or their gradients; None where there is none.
Outputs: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]
# Of x, v, extra and the table; None where not wanted.
Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
