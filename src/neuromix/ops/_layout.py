"""The memory layout of time-first tensors that kernels walk over: [T, ...], every step dense.

A step may be permuted (channels last), and steps may share memory (an input expanded over time): neither needs a
copy. Outputs have the layout of one step, one step after the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neuromix.core.errors import ShapeError

# The dtypes that kernels know, by the kind of device; for a CPU in the order of their numbers in C++.
DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.bfloat16),
    "cuda": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
}


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that neurons compute and keep their state in: float32 where they are fed less."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def require_steps(x_T: Tensor) -> None:
    """Raises ShapeError unless x_T is [T, ...] with T >= 1, floating point."""
    if x_T.dim() < 1 or x_T.shape[0] == 0:
        raise ShapeError(f"a neuron needs an input [T, ...] with at least one step, got {list(x_T.shape)}")
    if not x_T.is_floating_point():
        raise ShapeError(f"a neuron needs a floating-point input, got {x_T.dtype}")


def dense_steps(x_T: Tensor) -> Tensor:
    """x_T itself if each of its steps is dense memory, in whatever order of axes; else a copy."""
    return x_T if x_T.is_contiguous() or _is_dense(x_T.shape[1:], x_T.stride()[1:]) else x_T.contiguous()


def step_strides(x_T: Tensor) -> tuple[int, ...]:
    """The strides of one step of a tensor with dense steps."""
    if not x_T.is_contiguous():
        return x_T.stride()[1:]
    strides, size = [], 1
    for length in reversed(x_T.shape[1:]):
        strides.append(size)
        size *= max(length, 1)
    return tuple(reversed(strides))


def new_steps(x_T: Tensor, steps: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised memory for `steps` steps (None: one, without a time axis) laid out as those of x_T."""
    if steps is not None and steps == x_T.shape[0] and dtype is None and x_T.is_contiguous():
        return torch.empty_like(x_T)  # the common case, by the shortest way
    strides, step = step_strides(x_T), tuple(x_T.shape[1:])
    if steps is None:
        return x_T.new_empty_strided(step, strides, dtype=dtype or x_T.dtype)
    size = (steps, *step)
    return x_T.new_empty_strided(size, (max(math.prod(step), 1), *strides), dtype=dtype or x_T.dtype)


def laid_out_as(other: Tensor, x_T: Tensor) -> Tensor:
    """`other`, [T, ...] or one step, with its steps laid out as those of x_T; a copy only where they are not."""
    strides, steps = step_strides(x_T), other.dim() == x_T.dim()
    pairs = zip(other.shape[steps:], other.stride()[steps:], strides, strict=True)
    if all(length <= 1 or own == wanted for length, own, wanted in pairs):
        return other
    return new_steps(x_T, other.shape[0] if steps else None, other.dtype).copy_(other)


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for stride, length in sorted((s, n) for n, s in zip(shape, strides, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= length
    return True
