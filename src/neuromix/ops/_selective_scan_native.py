"""`selective_scan` by the kernels in C++, as an op with a gradient.

Shapes: B batch, L tokens, D channels, N states of a channel, G groups of channels, T chunks whose first state is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuromix.ops import _cpu, _kernels
from neuromix.ops._native import native
from neuromix.ops._register import define_op, refuse_second_derivatives


def has_native_scan(x: Tensor, A_DN: Tensor, B: Tensor, C: Tensor) -> bool:
    """Whether the kernels can take these: on a CPU, real, B and C of each token, and not within a transform.

    Tensors without data stand for ones on a CPU, so that what is counted on them is what would run.

    Args:
        x: in the dtype to compute in, float32 or float64.
    """
    of_tokens = B.dim() > 2 and C.dim() > 2 and _groups(B) == _groups(C)
    if not of_tokens or A_DN.is_complex() or is_transformed():
        return False
    if x.device.type == "meta":
        return native is not None and not _kernels._references_only
    return x.device.type == "cpu" and _kernels.has_kernel(x)


def is_transformed() -> bool:
    """Whether this is called within a transform of functorch: vmap, jvp, grad."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def native_scan(
    x_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    state_BDN: Tensor,
    reset_BL: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y and the last state, of operands of one dtype, float32 or float64."""
    operands = (x_BLD, delta_BLD, A_DN, B_BLGN, C_BLGN, state_BDN)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in operands)
    y_BLD, last_BDN, _ = torch.ops.neuromix.selective_scan(*operands, reset_BL, keep)
    return y_BLD, last_BDN


def _groups(matrix: Tensor) -> int:
    return matrix.shape[2] if matrix.dim() == 4 else 1


def _forward(
    x_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    state_BDN: Tensor,
    reset_BL: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = [t.contiguous() for t in (x_BLD, delta_BLD, A_DN, B_BLGN, C_BLGN)]
    outputs = _outputs_like(x_BLD, delta_BLD, A_DN, B_BLGN, C_BLGN, state_BDN, reset_BL, keep)
    _cpu.selective_scan(inputs, reset_BL, state_BDN.contiguous(), outputs)
    return outputs


def _outputs_like(
    x_BLD: Tensor,
    _delta_BLD: Tensor,
    A_DN: Tensor,
    _B_BLGN: Tensor,
    _C_BLGN: Tensor,
    state_BDN: Tensor,
    _reset_BL: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, _ = x_BLD.shape
    assert native is not None
    chunks = -(-length // native.SCAN_STEPS) if keep else 0
    kept_BTDN = x_BLD.new_empty(batch, chunks, *A_DN.shape)
    return x_BLD.new_empty(x_BLD.shape), state_BDN.new_empty(state_BDN.shape), kept_BTDN


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    x_BLD, delta_BLD, A_DN, B_BLGN, C_BLGN, _, reset_BL, _ = inputs
    ctx.save_for_backward(x_BLD, delta_BLD, A_DN, B_BLGN, C_BLGN, reset_BL, output[2])


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_second_derivatives()
    gradients = torch.ops.neuromix.selective_scan_backward(*grads[:2], *ctx.saved_tensors)
    return (*gradients, None, None)


def _run_backward(
    grad_y_BLD: Tensor | None,
    grad_last_BDN: Tensor | None,
    x_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    reset_BL: Tensor | None,
    kept_BTDN: Tensor,
) -> tuple[Tensor, ...]:
    """The gradients of x, delta, A, B, C and the first state."""
    grad_y_BLD = torch.zeros_like(x_BLD) if grad_y_BLD is None else grad_y_BLD
    grad_last_BDN = x_BLD.new_zeros(len(x_BLD), *A_DN.shape) if grad_last_BDN is None else grad_last_BDN
    inputs = [t.contiguous() for t in (x_BLD, delta_BLD, A_DN, B_BLGN, C_BLGN)]
    batch, groups = len(x_BLD), B_BLGN.shape[2]
    assert native is not None
    slices = -(-(x_BLD.shape[2] // groups) // native.SCAN_SLICE)
    outputs = [
        x_BLD.new_empty(x_BLD.shape),
        x_BLD.new_empty(x_BLD.shape),
        x_BLD.new_empty(batch, *A_DN.shape),
        x_BLD.new_empty(slices, *B_BLGN.shape),
        x_BLD.new_empty(slices, *C_BLGN.shape),
        x_BLD.new_empty(batch, *A_DN.shape),
    ]
    given = (kept_BTDN.contiguous(), grad_y_BLD.contiguous(), grad_last_BDN.contiguous())
    _cpu.selective_scan_backward(inputs, reset_BL, given, outputs)
    grad_x, grad_delta, grad_A_B, grad_B_S, grad_C_S, grad_state = outputs
    return grad_x, grad_delta, grad_A_B.sum(0), grad_B_S.sum(0), grad_C_S.sum(0), grad_state


def _gradients_like(
    _grad_y: Tensor | None,
    _grad_last: Tensor | None,
    x_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    *_: Tensor | None,
) -> tuple[Tensor, ...]:
    state = (len(x_BLD), *A_DN.shape)
    inputs = (x_BLD, delta_BLD, A_DN, B_BLGN, C_BLGN)
    return (*(x_BLD.new_empty(t.shape) for t in inputs), x_BLD.new_empty(state))


_INPUTS = "Tensor x_BLD, Tensor delta_BLD, Tensor A_DN, Tensor B_BLGN, Tensor C_BLGN"
define_op(
    f"selective_scan({_INPUTS}, Tensor state_BDN, Tensor? reset_BL, bool keep) -> (Tensor, Tensor, Tensor)",
    kernel=_forward,
    fake=_outputs_like,
    backward=_backward,
    keep=_keep,
)
define_op(
    f"selective_scan_backward(Tensor? grad_y_BLD, Tensor? grad_last_BDN, {_INPUTS}, Tensor? reset_BL, "
    "Tensor kept_BTDN) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernel=_run_backward,
    fake=_gradients_like,
)
