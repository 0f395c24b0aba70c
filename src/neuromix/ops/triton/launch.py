"""Runs the Triton kernels on tensors: grids, block sizes, and the sums of what programs left apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from neuromix.ops._layout import arithmetic_dtype
from neuromix.ops.triton.levels import levels_kernel
from neuromix.ops.triton.lif_backward import backward_kernel
from neuromix.ops.triton.lif_forward import forward_kernel

if TYPE_CHECKING:
    from neuromix.ops._lif_call import Call, Gradients, Inputs, Outputs

BLOCK = 512  # neurons of a program forward, four a thread
BLOCK_BACK, SEGMENT = 256, 16  # backward, and the steps whose potentials it keeps in registers
BLOCK_HEAVY, SEGMENT_HEAVY = 128, 8  # the same where more must be kept of a step: else registers spill
LANES = 1 << 18  # that a GPU has work enough with
_ROWS = 7  # of a table of coefficients
# Products must round before they are added to: see step.py.
COMPILER = {"num_warps": 4, "enable_fp_fusion": False}


def lif(call: Call, inputs: Inputs, outputs: Outputs) -> None:
    """Fills in the output, and the last states where there is memory for them."""
    x_T, neurons = inputs.x_T, inputs.neurons
    _launch(
        *(forward_kernel, triton.cdiv(neurons, BLOCK), x_T, inputs.v, inputs.extra, inputs.table, *outputs),
        *(x_T.stride(0), inputs.steps, neurons, inputs.channels, inputs.inner),
        *(*call.row, call.fire_at, call.v_reset, call.v_init),
        *(call.reset, call.extra_kind, call.strict, _real(x_T), BLOCK),
    )


def lif_backward(call: Call, inputs: Inputs, grads: Outputs, gradients: Gradients) -> None:
    """Fills in the gradients that there is memory for.

    Args:
        grads: of the output and, or None, of the last states.
    """
    x_T, grad, grad_table = inputs.x_T, grads[0], gradients[3]
    assert grad is not None
    if inputs.neurons == 0:
        if grad_table is not None:
            grad_table.zero_()
        return
    heavy = grad_table is not None or call.extra_kind != "none" or x_T.dtype == torch.float64
    block, segment = (BLOCK_HEAVY, SEGMENT_HEAVY) if heavy else (BLOCK_BACK, SEGMENT)
    width = inputs.neurons if grad_table is None else _width(inputs)
    programs, segments = triton.cdiv(width, block), triton.cdiv(inputs.steps, segment)
    sums = None
    if grad_table is not None:
        sums = grad_table.new_empty(_ROWS, programs if inputs.channels == 1 else width)
    _launch(
        *(backward_kernel, programs, x_T, inputs.v, inputs.extra, inputs.table, *grads),
        *(_scratch(call, inputs, segments), *gradients[:3], sums),
        *(x_T.stride(0), grad.stride(0), inputs.steps, segments, inputs.neurons, width),
        *(inputs.channels, inputs.inner, *call.row, call.fire_at, call.v_reset, call.v_init),
        *(call.shape, call.scale, call.reset, call.extra_kind, call.strict, call.detach_reset),
        *(call.ratio, call.surrogate, call.closed, inputs.channels == 1, _real(x_T)),
        *(triton.cdiv(inputs.steps, segments), block),
    )
    if sums is not None and grad_table is not None:
        # Lane i is of channel i // inner % channels.
        of_channel = sums.view(_ROWS, -1, inputs.channels, inputs.inner)
        grad_table.copy_(of_channel.sum((1, 3), dtype=torch.float64))


def levels(
    x_T: Tensor, grad_T: Tensor | None, output_T: Tensor, most: float, gain: float, unit: float
) -> None:
    """Fills in the output, or the gradient of x where there is one of the output."""
    neurons = x_T.numel() // len(x_T)
    blocks = triton.cdiv(neurons, BLOCK)
    _launch(
        *(levels_kernel, len(x_T) * blocks, x_T, grad_T, output_T),
        *(x_T.stride(0), 0 if grad_T is None else grad_T.stride(0), neurons, blocks),
        *(most, gain, unit if grad_T is None else gain * unit, _real(x_T), BLOCK),
    )


def _launch(kernel: Any, programs: int, x_T: Tensor, *arguments: Any) -> None:
    """Runs a kernel on the device of x_T, its first argument."""
    if programs > 0:
        with torch.cuda.device_of(x_T):  # type: ignore[no-untyped-call]
            kernel[(programs,)](x_T, *arguments, **COMPILER)


def _real(x_T: Tensor) -> Any:
    """The type of the arithmetic."""
    return tl.float64 if x_T.dtype == torch.float64 else tl.float32


def _scratch(call: Call, inputs: Inputs, segments: int) -> Tensor | None:
    """Memory for the state at the start of each segment, [states, segments, N]; none is needed for a single one."""
    states = 1 if call.extra_kind == "none" else 2
    if segments == 1:
        return None
    return inputs.x_T.new_empty(states, segments, inputs.neurons, dtype=arithmetic_dtype(inputs.x_T.dtype))


def _width(inputs: Inputs) -> int:
    """How many lanes the neurons are walked over in: all, or a multiple of what keeps a lane in its channel."""
    if inputs.channels == 1:
        return inputs.neurons
    period = inputs.channels * inputs.inner
    return period * math.ceil(min(LANES, inputs.neurons) / period)
