"""Integrate-and-fire neurons over all time steps, forward.

Every program takes a block of neurons over all steps, with its state in registers. Per neuron and step 8 bytes move
through memory in float32 (x is read, the output written), 4 in bfloat16 and float16, whose arithmetic is float32.

Offsets are 64-bit integers throughout, as steps times neurons may exceed 2^31.

Shapes: T steps, N neurons; tensors are dense within a step.
"""

from __future__ import annotations

import triton
import triton.language as tl

from neuromix.ops.triton.step import advance, coefficients, load_state


@triton.jit
def forward_kernel(
    x_ptr,  # [T, N], x_stride from step to step
    v_ptr,  # [N] before the first step, or None: v_init
    extra_ptr,  # [N], or None: 0
    table_ptr,  # [7, channels], or None: the numbers below
    output_ptr,  # [T, N]
    v_last_ptr,  # [N], or None: not wanted
    extra_last_ptr,
    x_stride,
    steps,
    neurons,
    channels,
    inner,  # neuron n is of channel n // inner % channels
    decay: tl.float64,
    gain: tl.float64,
    offset: tl.float64,
    threshold: tl.float64,
    height: tl.float64,
    extra_decay: tl.float64,
    strength: tl.float64,
    fire_at: tl.float64,
    v_reset: tl.float64,
    v_init: tl.float64,
    RESET: tl.constexpr,
    EXTRA: tl.constexpr,
    STRICT: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = n < neurons
    c = coefficients(
        *(table_ptr, n // inner % channels, channels, decay, gain, offset, threshold, height),
        *(extra_decay, strength, fire_at, v_reset, REAL, BLOCK),
    )
    v = load_state(v_ptr, n, mask, v_init, REAL, BLOCK)
    extra = load_state(extra_ptr, n, mask, 0.0, REAL, BLOCK)
    for t in range(steps):
        x = tl.load(x_ptr + tl.cast(t, tl.int64) * x_stride + n, mask, other=0.0).to(REAL)
        _, h, s, v, extra = advance(c, x, v, extra, RESET, EXTRA, STRICT)
        y = h if RESET == "none" else tl.where(s, c.height, 0.0)
        tl.store(output_ptr + tl.cast(t, tl.int64) * neurons + n, y, mask)
    if v_last_ptr is not None:
        tl.store(v_last_ptr + n, v, mask)
    if extra_last_ptr is not None:
        tl.store(extra_last_ptr + n, extra, mask)
