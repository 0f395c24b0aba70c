"""One step of a block of integrate-and-fire neurons, for kernels.

Operations come in the order of the PyTorch reference, and no product is fused with a sum (kernels are launched with
`enable_fp_fusion=False`): the spikes are those of the reference, exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Coefficients(NamedTuple):
    """What a block of neurons computes with, one number each, in the type of the arithmetic."""

    decay: tl.tensor
    gain: tl.tensor
    offset: tl.tensor
    threshold: tl.tensor
    height: tl.tensor
    extra_decay: tl.tensor
    strength: tl.tensor
    fire: tl.tensor  # fire_at * threshold
    fire_at: tl.tensor
    v_reset: tl.tensor


@triton.jit
def coefficients(
    table_ptr,  # [7, channels], or None: then the numbers hold
    channel,
    channels,
    decay,
    gain,
    offset,
    threshold,
    height,
    extra_decay,
    strength,
    fire_at,
    v_reset,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The coefficients of the neurons of these channels."""
    at = tl.full([BLOCK], fire_at, REAL)
    after = tl.full([BLOCK], v_reset, REAL)
    if table_ptr is not None:
        row_ptr = table_ptr + channel
        level = tl.load(row_ptr + 3 * channels)
        return Coefficients(
            tl.load(row_ptr),
            tl.load(row_ptr + channels),
            tl.load(row_ptr + 2 * channels),
            level,
            tl.load(row_ptr + 4 * channels),
            tl.load(row_ptr + 5 * channels),
            tl.load(row_ptr + 6 * channels),
            at * level,
            at,
            after,
        )
    else:
        return Coefficients(
            tl.full([BLOCK], decay, REAL),
            tl.full([BLOCK], gain, REAL),
            tl.full([BLOCK], offset, REAL),
            tl.full([BLOCK], threshold, REAL),
            tl.full([BLOCK], height, REAL),
            tl.full([BLOCK], extra_decay, REAL),
            tl.full([BLOCK], strength, REAL),
            tl.full([BLOCK], fire_at * threshold, REAL),  # in double, as Python multiplies numbers
            at,
            after,
        )


@triton.jit
def load_state(ptr, n, mask, otherwise, REAL: tl.constexpr, BLOCK: tl.constexpr):
    """One state of a block, or the number `otherwise` where there is no memory of it."""
    if ptr is None:
        return tl.full([BLOCK], otherwise, REAL)
    else:
        return tl.load(ptr + n, mask, other=0.0)


@triton.jit
def firing_level(c, extra, EXTRA: tl.constexpr):
    """The h at which neurons fire; `extra` is the trace of an adaptation before the step."""
    return c.fire_at * (c.threshold + c.strength * extra) if EXTRA == "adaptation" else c.fire


@triton.jit
def fires(h, level, STRICT: tl.constexpr):
    return h > level if STRICT else h >= level


@triton.jit
def advance(c, x, v, extra, RESET: tl.constexpr, EXTRA: tl.constexpr, STRICT: tl.constexpr):
    """One step: the input as the membrane sees it, h, whether it fires, and the state (v, extra) after it."""
    current = c.extra_decay * extra + x if EXTRA == "synapse" else x
    h = c.decay * v + c.gain * current + c.offset
    if RESET == "next":
        h = h - tl.where(fires(v, c.fire, STRICT), c.threshold, 0.0)
    s = fires(h, firing_level(c, extra, EXTRA), STRICT)
    if RESET == "hard":
        v = tl.where(s, c.v_reset, h)
    elif RESET == "soft":
        v = h - tl.where(s, c.threshold, 0.0)
    else:
        v = h
    if EXTRA == "synapse":
        extra = current
    elif EXTRA == "adaptation":
        extra = c.extra_decay * extra + tl.where(s, 1.0, 0.0).to(h.dtype)
    return current, h, s, v, extra
