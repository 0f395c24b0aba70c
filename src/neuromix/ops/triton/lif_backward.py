"""Integrate-and-fire neurons over all time steps, backward.

As forward, a program takes a block of neurons over all steps. What moves through memory per neuron and step, in
float32:

- up to SEGMENT steps, 12 bytes: x and the gradient of the output are read, the gradient of x is written. The
  potentials are computed again from x and stay in registers;
- over more steps less than 17 bytes: registers do not hold all potentials. A first pass over x leaves the state at the
  start of every segment of SEGMENT steps in a scratch (8 bytes a segment and neuron, written and read); then the
  segments follow one another backwards, each as above. Keeping all potentials in memory would take 20;
- gradients of coefficients a channel: beside that, 56 bytes a lane and call (written, then summed). A lane walks over
  neurons of the same channel; there are as many lanes as fill the device, or as one image has neurons.

Half of that in bfloat16 and float16, whose arithmetic is float32, except for the scratch and the lanes.

Shapes: T steps, N neurons; tensors are dense within a step.
"""

from __future__ import annotations

import triton
import triton.language as tl

from neuromix.ops.triton.step import advance, coefficients, load_state
from neuromix.ops.triton.step_back import Carried, Kept, Sums, before_the_first, step_back


@triton.jit
def backward_kernel(
    x_ptr,
    v_ptr,
    extra_ptr,
    table_ptr,
    grad_ptr,  # of the output, [T, N], grad_stride from step to step
    grad_v_last_ptr,  # [N], or None: 0
    grad_extra_last_ptr,
    scratch_ptr,  # [states, segments, N]; None where one segment holds all steps
    grad_x_ptr,  # [T, N], or None: not wanted, as the others
    grad_v_ptr,  # [N]
    grad_extra_ptr,
    sums_ptr,  # [7, width], or [7, programs] where all neurons are of one channel
    x_stride,
    grad_stride,
    steps,
    segments,
    neurons,
    width,  # neurons n, n + width, ... are one lane
    channels,
    inner,
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
    shape: tl.float64,
    scale: tl.float64,
    RESET: tl.constexpr,
    EXTRA: tl.constexpr,
    STRICT: tl.constexpr,
    DETACH: tl.constexpr,
    RATIO: tl.constexpr,
    KIND: tl.constexpr,
    CLOSED: tl.constexpr,
    ONE_CHANNEL: tl.constexpr,
    REAL: tl.constexpr,
    SEGMENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = coefficients(
        *(table_ptr, lane // inner % channels, channels, decay, gain, offset, threshold, height),
        *(extra_decay, strength, fire_at, v_reset, REAL, BLOCK),
    )
    shape = tl.full([BLOCK], shape, REAL)
    scale = tl.full([BLOCK], scale, REAL)
    zero = tl.zeros([BLOCK], REAL)
    sums = Sums(zero, zero, zero, zero, zero, zero, zero)
    for row in range(tl.cdiv(tl.cast(neurons, tl.int64), width)):
        n = tl.cast(row, tl.int64) * width + lane
        mask = (lane < width) & (n < neurons)
        v_first = load_state(v_ptr, n, mask, v_init, REAL, BLOCK)
        extra_first = load_state(extra_ptr, n, mask, 0.0, REAL, BLOCK)
        if scratch_ptr is not None:
            keep_segments(
                *(c, x_ptr, scratch_ptr, v_first, extra_first, n, mask, x_stride, segments, neurons),
                *(RESET, EXTRA, STRICT, REAL, SEGMENT),
            )
        carried = Carried(
            load_state(grad_v_last_ptr, n, mask, 0.0, REAL, BLOCK),
            load_state(grad_extra_last_ptr, n, mask, 0.0, REAL, BLOCK),
            zero,
        )
        for i in range(segments):
            segment = tl.cast(segments - 1 - i, tl.int64)
            v, extra = v_first, extra_first
            if scratch_ptr is not None:
                v = tl.load(scratch_ptr + segment * neurons + n, mask, other=0.0)
                if EXTRA != "none":
                    extra = tl.load(scratch_ptr + (segments + segment) * neurons + n, mask, other=0.0)
            kept = ()
            for j in tl.static_range(SEGMENT):
                t = segment * SEGMENT + j
                x = tl.load(x_ptr + t * x_stride + n, mask & (t < steps), other=0.0).to(REAL)
                current, h, _, v_after, extra_after = advance(c, x, v, extra, RESET, EXTRA, STRICT)
                kept = kept + ((current, v, extra, h),)  # noqa: RUF005 - Triton knows no other way
                v, extra = v_after, extra_after
            for j in tl.static_range(SEGMENT - 1, -1, -1):
                t = segment * SEGMENT + j
                inside = mask & (t < steps)
                grad_y = tl.load(grad_ptr + t * grad_stride + n, inside, other=0.0).to(REAL)
                grad_x, carried, sums = step_back(
                    *(c, shape, scale, grad_y, Kept(*kept[j]), carried, sums, inside),
                    *(RESET, EXTRA, STRICT, DETACH, RATIO, KIND, CLOSED),
                )
                if grad_x_ptr is not None:
                    tl.store(grad_x_ptr + t * neurons + n, grad_x, inside)
        if RESET == "next" and not DETACH:
            carried, sums = before_the_first(
                *(c, shape, scale, v_first, carried, sums, mask), *(STRICT, RATIO, KIND, CLOSED)
            )
        if grad_v_ptr is not None:
            tl.store(grad_v_ptr + n, carried.v, mask)
        if grad_extra_ptr is not None:
            tl.store(grad_extra_ptr + n, carried.extra, mask)
    if sums_ptr is not None:
        store_sums(sums_ptr, sums, lane, width, ONE_CHANNEL)


@triton.jit
def keep_segments(
    c,
    x_ptr,
    scratch_ptr,
    v,
    extra,
    n,
    mask,
    x_stride,
    segments,
    neurons,
    RESET: tl.constexpr,
    EXTRA: tl.constexpr,
    STRICT: tl.constexpr,
    REAL: tl.constexpr,
    SEGMENT: tl.constexpr,
):
    """Runs the steps and leaves in the scratch the state with which every segment starts."""
    for i in range(segments):
        segment = tl.cast(i, tl.int64)
        tl.store(scratch_ptr + segment * neurons + n, v, mask)
        if EXTRA != "none":
            tl.store(scratch_ptr + (segments + segment) * neurons + n, extra, mask)
        if i + 1 < segments:
            for j in tl.static_range(SEGMENT):
                t = segment * SEGMENT + j
                x = tl.load(x_ptr + t * x_stride + n, mask, other=0.0).to(REAL)
                _, _, _, v, extra = advance(c, x, v, extra, RESET, EXTRA, STRICT)
    tl.debug_barrier()  # other threads may read what these have written


@triton.jit
def store_sums(sums_ptr, sums, lane, width, ONE_CHANNEL: tl.constexpr):
    """Writes the gradients of the coefficients, of each lane or of the block as a whole."""
    for i in tl.static_range(7):
        if ONE_CHANNEL:
            place = tl.cast(i, tl.int64) * tl.num_programs(0) + tl.program_id(0)
            tl.store(sums_ptr + place, tl.sum(sums[i], 0))
        else:
            tl.store(sums_ptr + tl.cast(i, tl.int64) * width + lane, sums[i], lane < width)
