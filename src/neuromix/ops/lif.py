"""The integrate-and-fire recurrence over spike time, for neurons with and without leak.

`lif_reference` is the definition. On CPUs and CUDA `lif` runs a fused kernel that gives the same spikes, and in one
pass backward the same gradients; it keeps nothing for it but its input.

Shapes: T spike time, then any neuron axes; C channels, one of these axes; a state has the shape of one step.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.ops import _lif_kernel
from neuromix.ops._kernels import has_kernel
from neuromix.ops._layout import arithmetic_dtype, require_steps
from neuromix.ops._lif_call import Call
from neuromix.ops.spike import Slope, Steps, SurrogateGradient, spike

# One number for all neurons; as a tensor it can be learnt, and is a single value or one a channel, [C].
Coefficient: TypeAlias = float | Tensor
State: TypeAlias = tuple[Tensor, ...]


class LIFParameters(NamedTuple):
    """What `lif` runs with, in the notation of its formula."""

    decay: Coefficient
    gain: Coefficient
    offset: Coefficient
    v_threshold: Coefficient = 1.0
    v_reset: float | None = None  # None: soft reset, subtracts the threshold
    detach_reset: bool = True  # no gradient through the spike in the reset
    strict: bool = False  # fires above the threshold, not at it
    fire_at: float = 1.0  # the fraction of the threshold at which it fires
    height: Coefficient = 1.0  # the value of a spike
    reset: Literal["now", "next"] = "now"  # next: a step later, without decay; soft only
    ratio: bool = False  # the surrogate is a function of h / threshold - 1
    v_init: float = 0.0
    fires: bool = True  # False: a leaky integrator, whose output is its membrane potential
    # A second state: the current of a synapse, or the trace that raises the threshold of an adapting neuron.
    extra: Literal["none", "synapse", "adaptation"] = "none"
    extra_decay: Coefficient = 0.0
    strength: Coefficient = 0.0
    channel_axis: int = 1  # of a step, for coefficients a channel


class LIFTrace(NamedTuple):
    """Every step of a run: output, membrane before and after the reset, each of the input's shape; the last state."""

    spikes: Tensor
    membrane: Tensor
    membrane_after_reset: Tensor
    state: State


def lif(
    x_T: Tensor,
    state: State | None,
    p: LIFParameters,
    surrogate: SurrogateGradient,
    *,
    return_state: bool = True,
) -> tuple[Tensor, State]:
    """Spikes of integrate-and-fire neurons.

    For each step: h = decay*v + gain*x + offset; s = [h >= fire_at*v_threshold] (> if `strict`); output s*height;
    v = v_reset where s else h (hard reset), h - s*v_threshold (soft reset), or h where the reset comes next: then
    the following h is lessened by s*v_threshold. A synapse puts e = extra_decay*e + x in the place of x; an
    adaptation e = extra_decay*e + s raises v_threshold by strength*e when it fires, one step later.

    Args:
        x_T: input current, [T, ...], T >= 1, floating point.
        state: v, and e where there is one, before the first step; None: v_init and 0. In the dtype of the input,
            float32 where that has less: a neuron computes and keeps its state in no less, so that steps and
            segments give the numbers of the whole.
        surrogate: ds/du for u = h - fire_at*v_threshold (u / (fire_at*v_threshold) if `ratio`).

    Returns:
        output [T, ...] and the state after the last step (empty unless `return_state`).

    Raises:
        ShapeError: T is 0, the dtype is not floating point, or a state or coefficient does not fit.
        ConfigError: the surrogate looks back at earlier steps, and there is a state of such.
    """
    _check(x_T, state, p)
    if state is not None and surrogate.looks_back:
        raise ConfigError(
            f"{surrogate} looks at all steps from the first on: run them at once, without a state"
        )
    slope = surrogate.fused() if p.fires else _lif_kernel.NO_SLOPE
    if slope is None or not has_kernel(x_T) or not _is_fused(p):
        trace = lif_reference(x_T, state, p, surrogate)
        return trace.spikes, trace.state if return_state else ()
    v, extra = (*(state or ()), None, None)[:2]
    output, v, extra = _lif_kernel.run(x_T, v, extra, _table(x_T, p), _call(p, slope, return_state))
    return output, () if not return_state else (v,) if p.extra == "none" else (v, extra)


def _is_fused(p: LIFParameters) -> bool:
    """Whether the kernels have this combination of options; rare ones run by the formula."""
    return not (p.ratio and p.extra == "adaptation") and (p.fires or p.extra == "none")


def lif_reference(
    x_T: Tensor, state: State | None, p: LIFParameters, surrogate: SurrogateGradient
) -> LIFTrace:
    """As `lif`, by the formula, with every step kept."""
    dtype, x_T = x_T.dtype, x_T.to(arithmetic_dtype(x_T.dtype))
    p = over_channels(x_T, p)
    v, extra = (*(state or ()), *_initial(x_T[0], p)[len(state or ()) :])
    derivatives, steps = surrogate.steps(), []
    s = _fire(v, p.v_threshold, p, surrogate.steps()) if p.reset == "next" else v
    for x in x_T.unbind(0):
        if p.extra == "synapse":
            x = extra = p.extra_decay * extra + x
        h = p.decay * v + p.gain * x + p.offset
        if p.reset == "next":
            h = h - _detached(s, p) * p.v_threshold
        threshold = p.v_threshold + p.strength * extra if p.extra == "adaptation" else p.v_threshold
        s = _fire(h, threshold, p, derivatives)
        v = reset(h, _detached(s, p), p) if p.reset == "now" and p.fires else h
        if p.extra == "adaptation":
            extra = p.extra_decay * extra + s
        steps.append((s * p.height if p.fires else h, h, v))
    y_T, h_T, v_T = (torch.stack(each).to(dtype) for each in zip(*steps, strict=True))
    return LIFTrace(y_T, h_T, v_T, state=(v,) if p.extra == "none" else (v, extra))


def _initial(like: Tensor, p: LIFParameters) -> tuple[Tensor, Tensor]:
    return torch.full_like(like, p.v_init), torch.zeros_like(like)


def _fire(h: Tensor, threshold: Coefficient, p: LIFParameters, derivatives: Steps) -> Tensor:
    fire = p.fire_at * threshold
    u = (h - fire) / fire if p.ratio else h - fire
    return spike(u, derivatives(u), p.strict)


def _detached(s: Tensor, p: LIFParameters) -> Tensor:
    return s.detach() if p.detach_reset else s


def reset(h: Tensor, s: Tensor, p: LIFParameters) -> Tensor:
    """The membrane potential after a hard or a soft reset where s is 1."""
    return h - s * p.v_threshold if p.v_reset is None else h * (1 - s) + s * p.v_reset


def over_channels(x_T: Tensor, p: LIFParameters) -> LIFParameters:
    """The coefficients shaped so that they broadcast over a step, in the dtype that it is computed in."""
    axes, dtype = max(x_T.dim() - 1, 1), arithmetic_dtype(x_T.dtype)
    shape = [-1] + [1] * (axes - 1 - p.channel_axis % axes)
    changes: dict[str, Any] = {
        name: value.to(dtype).view(shape if value.dim() else []) for name, value in _tensors(p).items()
    }
    return p._replace(**changes)


_COEFFICIENTS = (
    "decay",
    "gain",
    "offset",
    "v_threshold",
    "height",
    "extra_decay",
    "strength",
)  # as rows of a table


def _row(p: LIFParameters) -> list[Coefficient]:
    return [p.decay, p.gain, p.offset, p.v_threshold, p.height, p.extra_decay, p.strength]


def _tensors(p: LIFParameters) -> dict[str, Tensor]:
    """The coefficients that are tensors."""
    return {
        name: value for name, value in zip(_COEFFICIENTS, _row(p), strict=True) if isinstance(value, Tensor)
    }


def _table(x_T: Tensor, p: LIFParameters) -> Tensor | None:
    """[rows, C] where a coefficient is a tensor, else None."""
    tensors = _tensors(p)
    if not tensors:
        return None
    channels = max(value.numel() for value in tensors.values())
    like = x_T.new_empty(0, dtype=arithmetic_dtype(x_T.dtype))
    return torch.stack(
        [
            value.to(like).expand(channels)
            if isinstance(value, Tensor)
            else like.new_full((channels,), value)
            for value in _row(p)
        ]
    )


def _call(p: LIFParameters, slope: Slope, return_state: bool) -> Call:
    hard = "hard" if p.v_reset is not None else "soft"
    return Call(
        row=[0.0 if isinstance(value, Tensor) else value for value in _row(p)],
        v_init=p.v_init,
        v_reset=p.v_reset or 0.0,
        fire_at=p.fire_at,
        reset="none" if not p.fires else "next" if p.reset == "next" else hard,
        extra_kind=p.extra,
        strict=p.strict,
        detach_reset=p.detach_reset,
        ratio=p.ratio,
        surrogate=slope.kind,
        shape=slope.shape,
        scale=slope.scale,
        closed=slope.closed,
        channel_axis=p.channel_axis,
        return_state=return_state,
    )


def _check(x_T: Tensor, state: State | None, p: LIFParameters) -> None:
    require_steps(x_T)
    dtype, step = arithmetic_dtype(x_T.dtype), x_T.shape[1:]
    wanted = 1 if p.extra == "none" else 2
    if state is not None and len(state) != wanted:
        raise ShapeError(f"this neuron has a state of {wanted} tensor{'s'[: wanted - 1]}, got {len(state)}")
    for part in state or ():
        if part.shape != step or part.dtype != dtype or part.device != x_T.device:
            raise ShapeError(
                f"the neuron state is {part.dtype} {list(part.shape)} on {part.device}; its input "
                f"{x_T.dtype} {list(x_T.shape)} needs {dtype} {list(step)} on {x_T.device}"
            )
    for name, value in _tensors(p).items():
        channels = step[p.channel_axis] if -len(step) <= p.channel_axis < len(step) else None
        if value.device != x_T.device:
            raise ShapeError(f"{name} is on {value.device}, the input of the neuron on {x_T.device}")
        if value.dim() and list(value.shape) != [channels]:
            raise ShapeError(
                f"{name} has shape {list(value.shape)}; steps {list(step)} have {channels} channels, "
                f"on axis {p.channel_axis}"
            )
