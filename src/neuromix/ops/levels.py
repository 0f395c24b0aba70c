"""Integer activations: a clipped, rounded input, with a straight-through gradient.

Shapes: T spike time, then any neuron axes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuromix.ops._kernels import has_kernel, kernels_for
from neuromix.ops._layout import arithmetic_dtype, dense_steps, laid_out_as, new_steps, require_steps
from neuromix.ops._register import define_op, is_traced, refuse_second_derivatives


def integer_levels(x_T: Tensor, levels: int, gain: float = 1.0, unit: float = 1.0) -> Tensor:
    """floor(clamp(gain*x, 0, levels) + 1/2) * unit: rounds half up.

    Gradients pass, times gain*unit, where 0 < gain*x < levels.

    Args:
        x_T: [T, ...], T >= 1, floating point.

    Raises:
        ShapeError: T is 0, or the dtype is not floating point.
    """
    require_steps(x_T)
    if not has_kernel(x_T):
        return integer_levels_reference(x_T, levels, gain, unit)
    if is_traced(x_T):
        y_T: Tensor = torch.ops.neuromix.integer_levels(x_T, levels, gain, unit)
        return y_T
    x_T = dense_steps(x_T)
    if torch.is_grad_enabled() and x_T.requires_grad:
        y_T = _IntegerLevels.apply(x_T, levels, gain, unit)  # type: ignore[no-untyped-call]
        return y_T
    return _run(x_T, None, levels, gain, unit)


def integer_levels_reference(x_T: Tensor, levels: int, gain: float, unit: float) -> Tensor:
    """As `integer_levels`, by the formula."""
    y_T: Tensor = _Rounded.apply(x_T.to(arithmetic_dtype(x_T.dtype)) * gain, levels)  # type: ignore[no-untyped-call]
    return (y_T * unit).to(x_T.dtype)


def binary_steps(n_T: Tensor, levels: int) -> Tensor:
    """Integers n_T [T, ...] in 0..levels as binary sub-steps [T, levels, ...] whose sum they are: s_d = [n > d]."""
    # Half a step of room: n may be a multiple of 1/levels times levels, which is not always whole.
    return torch.stack([(n_T > d + 0.5).to(n_T.dtype) for d in range(levels)], 1)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward((z > 0) & (z < levels))
        return (z.clamp(0, levels) + 0.5).floor()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None


class _IntegerLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_T: Tensor, levels: int, gain: float, unit: float) -> Tensor:
        _keep(ctx, (x_T, levels, gain, unit))
        return _run(x_T, None, levels, gain, unit)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        (x_T,) = ctx.saved_tensors
        return _run(x_T, grads[0], *ctx.options), None, None, None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any = None) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.options = inputs[1:]


def _run(x_T: Tensor, grad_T: Tensor | None, levels: float, gain: float, unit: float) -> Tensor:
    """The output, or the gradient of x where there is one of the output."""
    x_T = dense_steps(x_T)
    grad_T = None if grad_T is None else laid_out_as(grad_T, x_T)
    output_T = new_steps(x_T, len(x_T))
    kernels_for(x_T).levels(x_T, grad_T, output_T, levels, gain, unit)
    return output_T


def _like(x_T: Tensor) -> Tensor:
    x_T = dense_steps(x_T)
    return new_steps(x_T, x_T.shape[0])


def _backward_through_op(ctx: Any, grad_T: Tensor) -> tuple[Tensor | None, ...]:
    grad_x_T = torch.ops.neuromix.integer_levels_backward(grad_T, *ctx.saved_tensors, *ctx.options)
    return grad_x_T, None, None, None


_OPTIONS = "int levels, float gain, float unit"
define_op(
    f"integer_levels(Tensor x_T, {_OPTIONS}) -> Tensor",
    kernel=lambda x_T, *options: _run(x_T, None, *options),
    fake=lambda x_T, *_: _like(x_T),
    backward=_backward_through_op,
    keep=_keep,
)
define_op(
    f"integer_levels_backward(Tensor grad_T, Tensor x_T, {_OPTIONS}) -> Tensor",
    kernel=lambda grad_T, x_T, *options: _run(x_T, grad_T, *options),
    fake=lambda _grad_T, x_T, *_: _like(x_T),
)
