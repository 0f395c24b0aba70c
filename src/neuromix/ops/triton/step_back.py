"""One step backwards through time of a block of integrate-and-fire neurons, for kernels."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from neuromix.ops.triton.slopes import slope_at
from neuromix.ops.triton.step import fires, firing_level


class Kept(NamedTuple):
    """What a step is differentiated at."""

    current: tl.tensor  # the input, as the membrane saw it
    v: tl.tensor  # the state before the step
    extra: tl.tensor
    h: tl.tensor


class Carried(NamedTuple):
    """The gradients that a step hands to the one before it: of the state, and of h (for reset "next")."""

    v: tl.tensor
    extra: tl.tensor
    h: tl.tensor


class Sums(NamedTuple):
    """The gradients of the coefficients, over all steps so far."""

    decay: tl.tensor
    gain: tl.tensor
    offset: tl.tensor
    threshold: tl.tensor
    height: tl.tensor
    extra_decay: tl.tensor
    strength: tl.tensor


@triton.jit
def slope_of_h(h, level, shape, scale, RATIO: tl.constexpr, KIND: tl.constexpr, CLOSED: tl.constexpr):
    """ds/dh: the surrogate of u = h - level, or of u / level if it is a function of the ratio."""
    u = h - level
    if RATIO:
        return slope_at(u / level, shape, scale, KIND, CLOSED) / level
    else:
        return slope_at(u, shape, scale, KIND, CLOSED)


@triton.jit
def step_back(
    c,
    shape,
    scale,
    grad_y,
    kept,
    carried,
    sums,
    inside,
    RESET: tl.constexpr,
    EXTRA: tl.constexpr,
    STRICT: tl.constexpr,
    DETACH: tl.constexpr,
    RATIO: tl.constexpr,
    KIND: tl.constexpr,
    CLOSED: tl.constexpr,
):
    """The gradient of x, what is carried on, and the sums with this step added.

    Lanes that are not `inside` the tensors, where grad_y is 0, carry on what they have and add nothing.
    """
    h, grad_v = kept.h, tl.where(inside, carried.v, 0.0)
    grad_extra, next_grad_h = tl.where(inside, carried.extra, 0.0), tl.where(inside, carried.h, 0.0)
    level = firing_level(c, kept.extra, EXTRA)
    s = fires(h, level, STRICT)
    grad_u, grad_height = tl.zeros_like(h), tl.zeros_like(h)
    grad_h = grad_y + grad_v  # of a leaky integrator
    if RESET != "none":
        # From the output, the reset and the adaptation to the spike, and through it to h.
        grad_s = c.height * grad_y
        if EXTRA == "adaptation":
            grad_s += grad_extra
        if RESET == "hard" and not DETACH:
            grad_s += grad_v * (c.v_reset - h)
        elif RESET == "soft" and not DETACH:
            grad_s -= grad_v * c.threshold
        elif RESET == "next" and not DETACH:
            grad_s -= next_grad_h * c.threshold
        grad_u = grad_s * slope_of_h(h, level, shape, scale, RATIO, KIND, CLOSED)
        grad_height = tl.where(s, grad_y, 0.0)
        grad_h = grad_u + (tl.where(s, 0.0, grad_v) if RESET == "hard" else grad_v)
    grad_x = c.gain * grad_h
    if EXTRA == "synapse":
        grad_x += grad_extra

    grad_level = -c.fire_at * grad_u * (h / level if RATIO else 1.0)
    grad_threshold = grad_level
    if RESET == "soft":
        grad_threshold -= tl.where(s, grad_v, 0.0)
    elif RESET == "next":
        grad_threshold -= tl.where(fires(kept.v, c.fire, STRICT), grad_h, 0.0)
    if EXTRA == "synapse":
        grad_decay = grad_x * kept.extra
        carried_extra = c.extra_decay * grad_x
    elif EXTRA == "adaptation":
        grad_decay = grad_extra * kept.extra
        carried_extra = c.extra_decay * grad_extra - c.fire_at * c.strength * grad_u
    else:
        grad_decay = tl.zeros_like(h)
        carried_extra = grad_extra
    sums = Sums(
        sums.decay + grad_h * kept.v,
        sums.gain + grad_h * kept.current,
        sums.offset + grad_h,
        sums.threshold + grad_threshold,
        sums.height + grad_height,
        sums.extra_decay + grad_decay,
        sums.strength + grad_level * kept.extra,
    )
    carried = Carried(
        tl.where(inside, c.decay * grad_h, carried.v),
        tl.where(inside, carried_extra, carried.extra),
        tl.where(inside, grad_h, carried.h),
    )
    return grad_x, carried, sums


@triton.jit
def before_the_first(
    c,
    shape,
    scale,
    v,
    carried,
    sums,
    inside,
    STRICT: tl.constexpr,
    RATIO: tl.constexpr,
    KIND: tl.constexpr,
    CLOSED: tl.constexpr,
):
    """With reset "next" the first step subtracts what the potential `v` before it had fired, here differentiated."""
    slope = slope_of_h(v, c.fire, shape, scale, RATIO, KIND, CLOSED)
    grad_u = tl.where(inside, -carried.h * c.threshold * slope, 0.0)
    grad_level = -c.fire_at * grad_u * (v / c.fire if RATIO else 1.0)
    carried = Carried(carried.v + grad_u, carried.extra, carried.h)
    sums = Sums(
        sums.decay,
        sums.gain,
        sums.offset,
        sums.threshold + grad_level,
        sums.height,
        sums.extra_decay,
        sums.strength,
    )
    return carried, sums
