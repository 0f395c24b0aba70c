"""The leaky integrate-and-fire recurrence over spike time.

Shapes: T spike time, then any neuron axes; the state has the shape of one step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuromix.core.errors import ShapeError
from neuromix.ops._native import get_native
from neuromix.ops.spike import Derivative, spike


class LIFParameters(NamedTuple):
    """The constants of `lif`, in the notation of its formula; `v_reset` None is a soft reset.

    A tensor as threshold is learnable: one value, or one that broadcasts over the shape of a step.
    """

    decay: float
    gain: float
    offset: float
    v_threshold: float | Tensor
    v_reset: float | None
    detach_reset: bool = True
    strict: bool = False


class LIFTrace(NamedTuple):
    """Every step of a run: spikes, membrane before and after the reset; each of the input's shape."""

    spikes: Tensor
    membrane: Tensor
    membrane_after_reset: Tensor


def lif(x_T: Tensor, v: Tensor, p: LIFParameters, derivative: Derivative) -> tuple[Tensor, Tensor]:
    """Spikes of leaky integrate-and-fire neurons.

    For each step: h = decay*v + gain*x + offset; s = [h >= v_threshold] (> if `strict`);
    v = v_reset where s else h (hard reset), or h - s*v_threshold (soft reset).

    Args:
        x_T: input current, [T, ...], T >= 1, floating point.
        v: membrane potential before the first step, shape of one step.
        derivative: of the surrogate, a function of h - v_threshold.

    Returns:
        spikes [T, ...] and the membrane potential after the last step.

    Raises:
        ShapeError: T is 0, the dtype is not floating point, or `v` does not fit.
    """
    _check(x_T, v)
    native = get_native() if _runs_natively(x_T, v, p) else None
    if native is None:
        trace = lif_reference(x_T, v, p, derivative)
        return trace.spikes, trace.membrane_after_reset[-1]
    x_T = x_T.detach().contiguous()
    v = v.detach().clone(memory_format=torch.contiguous_format)  # the kernel leaves the last state in it
    spikes_T = torch.empty_like(x_T)
    constants = (p.decay, p.gain, p.offset, p.v_threshold, p.v_reset or 0.0, p.v_reset is not None, p.strict)
    native.lif_forward(x_T, v, spikes_T, *constants, threads=torch.get_num_threads())
    return spikes_T, v


def lif_reference(x_T: Tensor, v: Tensor, p: LIFParameters, derivative: Derivative) -> LIFTrace:
    """As `lif`, by the formula, with every step kept."""
    reset = _hard_reset if p.v_reset is not None else _soft_reset
    spikes, membrane, after = [], [], []
    for x in x_T.unbind(0):
        h = p.decay * v + p.gain * x + p.offset
        s = spike(h - p.v_threshold, derivative, p.strict)
        v = reset(h, s.detach() if p.detach_reset else s, p)
        spikes.append(s)
        membrane.append(h)
        after.append(v)
    return LIFTrace(torch.stack(spikes), torch.stack(membrane), torch.stack(after))


def _hard_reset(h: Tensor, s: Tensor, p: LIFParameters) -> Tensor:
    return h * (1 - s) + s * (p.v_reset or 0.0)


def _soft_reset(h: Tensor, s: Tensor, p: LIFParameters) -> Tensor:
    return h - s * p.v_threshold


def _check(x_T: Tensor, v: Tensor) -> None:
    if x_T.dim() < 1 or x_T.shape[0] == 0:
        raise ShapeError(f"a neuron needs an input [T, ...] with at least one step, got {list(x_T.shape)}")
    if not x_T.is_floating_point():
        raise ShapeError(f"a neuron needs a floating-point input, got {x_T.dtype}")
    if v.shape != x_T.shape[1:] or v.dtype != x_T.dtype or v.device != x_T.device:
        raise ShapeError(
            f"the neuron state is {v.dtype} {list(v.shape)} on {v.device}; its input needs "
            f"{x_T.dtype} {list(x_T.shape[1:])} on {x_T.device}"
        )


def _runs_natively(x_T: Tensor, v: Tensor, p: LIFParameters) -> bool:
    if isinstance(p.v_threshold, Tensor):
        return False
    plain = x_T.device.type == "cpu" and x_T.dtype in (torch.float32, torch.float64) and type(x_T) is Tensor
    differentiable = torch.is_grad_enabled() and (x_T.requires_grad or v.requires_grad)
    return plain and not differentiable and not torch.compiler.is_compiling() and x_T.numel() > 0
