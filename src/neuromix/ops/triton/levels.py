"""Integer activations in Triton; what moves is what must: the inputs are read and the output is written, once each."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def levels_kernel(
    x_ptr,  # [T, N], x_stride from step to step
    grad_ptr,  # of the output, [T, N], or None: forward
    output_ptr,  # [T, N]: the output, or the gradient of x
    x_stride,
    grad_stride,
    neurons,
    blocks,  # of one step
    levels: tl.float64,
    gain: tl.float64,
    factor: tl.float64,  # the unit of the output, or of the gradient gain * unit
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program takes a block of one step."""
    program = tl.program_id(0)
    t = (program // blocks).to(tl.int64)
    n = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = n < neurons
    most = tl.full([BLOCK], levels, REAL)
    factors = tl.full([BLOCK], factor, REAL)
    z = tl.load(x_ptr + t * x_stride + n, mask, other=0.0).to(REAL) * tl.full([BLOCK], gain, REAL)
    if grad_ptr is None:
        z = tl.where(z < 0, 0.0, tl.where(z > most, most, z))  # lets NaN pass
        y = tl.floor(z + 0.5) * factors
    else:
        grad_y = tl.load(grad_ptr + t * grad_stride + n, mask, other=0.0).to(REAL)
        y = tl.where((z > 0) & (z < most), grad_y * factors, 0.0)
    tl.store(output_ptr + t * neurons + n, y, mask)
