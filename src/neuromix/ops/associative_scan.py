"""All states of a linear recurrence at once: a scan of log depth.

The map x -> a x + b followed by the map x -> a' x + b' is the map x -> (a' a) x + (a' b + b'), and that composition
is associative. So neighbours are joined in pairs, the half-length row is scanned, and the rest is filled in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuromix.core.errors import ShapeError


def associative_scan(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """x_t = a_t x_{t-1} + b_t along `dim`, with x_{-1} = 0.

    A state x_{-1} before the first step is a term a_0 x_{-1} of b_0. Products of a are never divided by: a_t = 0
    starts anew, exactly. The backward is a scan too, from the end; it keeps a and x. About 3 operations of each
    kind per element.

    Args:
        a: any floating-point or complex dtype.
        b: broadcasts with a.
        dim: the axis of time.

    Returns:
        x, in the common shape and dtype of a and b.

    Raises:
        ShapeError: shapes that do not broadcast, or an axis that they do not have.
    """
    try:
        shape = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ShapeError(f"a {list(a.shape)} and b {list(b.shape)} do not broadcast") from None
    if not -len(shape) <= dim < len(shape):
        raise ShapeError(f"a scan needs an axis {dim}, got a {list(a.shape)} and b {list(b.shape)}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = (t.to(dtype).expand(shape).movedim(dim, 0) for t in (a, b))
    x: Tensor = _Scan.apply(a, b)  # type: ignore[no-untyped-call]
    return x.movedim(0, dim)


class _Scan(torch.autograd.Function):
    """The scan along the first axis, whose gradient is the scan from the end."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a_T: Tensor, b_T: Tensor) -> Tensor:
        return _scan(a_T, b_T)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        a_T, x_T = ctx.saved_tensors
        tangent_a_T, tangent_b_T = tangents
        x: Tensor = _Scan.apply(a_T, tangent_a_T * _before(x_T) + tangent_b_T)  # type: ignore[no-untyped-call]
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a_T, x_T = ctx.saved_tensors
        (grad_T,) = grads
        following_T = torch.cat((a_T[1:], torch.zeros_like(a_T[:1])))
        grad_b_T = _Scan.apply(following_T.conj().flip(0), grad_T.flip(0)).flip(0)  # type: ignore[no-untyped-call]
        return grad_b_T * _before(x_T).conj(), grad_b_T


def _before(x_T: Tensor) -> Tensor:
    """x_{t-1}, and 0 before the first step."""
    return torch.cat((torch.zeros_like(x_T[:1]), x_T[:-1]))


def _scan(a_T: Tensor, b_T: Tensor) -> Tensor:
    steps = len(a_T)
    if steps < 2:
        return b_T.clone()
    even, odd = slice(0, steps - 1, 2), slice(1, None, 2)
    later_T = _scan(a_T[odd] * a_T[even], torch.addcmul(b_T[odd], a_T[odd], b_T[even]))
    x_T = torch.empty_like(b_T)
    x_T[0] = b_T[0]
    x_T[odd] = later_T
    x_T[2::2] = torch.addcmul(b_T[2::2], a_T[2::2], later_T[: (steps - 1) // 2])
    return x_T
