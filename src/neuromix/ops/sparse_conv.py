"""Convolution over sites of a sparse grid: products only where an input and an output site are neighbours.

A table says which input row each kernel place (tap) reads for each output row, and -1 where there is none. So the
gradient of the inputs is the same op, with the table read backwards and the weights transposed.

Shapes: N input rows, M output rows, K taps, I input channels, O output channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuromix.core.errors import ShapeError
from neuromix.ops import _cpu, _kernels
from neuromix.ops._register import define_op, refuse_second_derivatives


def sparse_conv(x_NI: Tensor, weight_KIO: Tensor, table_KM: Tensor, inverse_KN: Tensor) -> Tensor:
    """y[m] = sum over taps k with table[k, m] >= 0 of x[table[k, m]] @ weight[k].

    The kernel in C++ adds nothing where x is 0: spikes that were not sent cost nothing.

    Args:
        x_NI: floating point.
        weight_KIO: of the same dtype.
        table_KM: int32, the row of x that a tap reads, or -1; no tap reads a row twice.
        inverse_KN: int32, the output row that a tap writes from a row of x, or -1: the table read backwards.

    Returns:
        [M, O], in the dtype of the weight.

    Raises:
        ShapeError: shapes or dtypes that do not fit together.
    """
    _check(x_NI, weight_KIO, table_KM, inverse_KN)
    x_NI = x_NI.to(weight_KIO.dtype)
    if _by_formula(x_NI):
        return sparse_conv_reference(x_NI, weight_KIO, table_KM)
    # Always through the dispatcher, unlike neurons, and whatever kernel then runs: a profile counts this op.
    y_MO: Tensor = torch.ops.neuromix.sparse_conv(x_NI, weight_KIO, table_KM, inverse_KN)
    return y_MO


def sparse_conv_reference(x_NI: Tensor, weight_KIO: Tensor, table_KM: Tensor) -> Tensor:
    """As `sparse_conv`, by the formula: tap by tap, so that memory is that of one tap and not of all K."""
    y_MO = x_NI.new_zeros(table_KM.shape[1], weight_KIO.shape[2])
    for weight_IO, row_M in zip(weight_KIO, table_KM, strict=True):
        at = (row_M >= 0).nonzero()[:, 0]
        y_MO.index_add_(0, at, (x_NI[row_M[at]] @ weight_IO).to(y_MO.dtype))
    return y_MO


def neighbour_table(keys_N: Tensor, shifts: list[int]) -> Tensor:
    """For each shift and each key, the row of the key that is larger by the shift, or -1.

    Args:
        keys_N: int64, all different, in any order.
        shifts: one a tap.

    Returns:
        [K, N], int32.
    """
    if _by_formula(keys_N):
        return neighbour_table_reference(*keys_N.sort(), shifts)
    table_KN: Tensor = torch.ops.neuromix.neighbour_table(keys_N, shifts)
    return table_KN


def neighbour_table_reference(sorted_N: Tensor, order_N: Tensor, shifts: list[int]) -> Tensor:
    """As `neighbour_table` of keys `sorted_N`, where the n-th of them belongs to row order[n]: binary search."""
    table_KN = sorted_N.new_full((len(shifts), len(sorted_N)), -1, dtype=torch.int32)
    if not len(sorted_N):
        return table_KN
    for row_N, shift in zip(table_KN, shifts, strict=True):
        wanted_N = sorted_N + shift
        at_N = torch.searchsorted(sorted_N, wanted_N).clamp(max=len(sorted_N) - 1)
        found_N = sorted_N[at_N] == wanted_N
        row_N[order_N[found_N]] = order_N[at_N[found_N]].to(torch.int32)
    return table_KN


def _by_formula(x: Tensor) -> bool:
    """Whether plain PyTorch is asked for: within `references_only`, or by a transform of functorch."""
    return _kernels._references_only or torch._C._functorch.is_functorch_wrapped_tensor(x)


def _has_native(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and _kernels.has_kernel(x)


def _check(x_NI: Tensor, weight_KIO: Tensor, table_KM: Tensor, inverse_KN: Tensor) -> None:
    fits = (
        x_NI.dim() == 2
        and weight_KIO.dim() == 3
        and x_NI.is_floating_point()
        and weight_KIO.is_floating_point()
        and x_NI.shape[1] == weight_KIO.shape[1]
        and table_KM.dim() == inverse_KN.dim() == 2
        and len(weight_KIO) == len(table_KM) == len(inverse_KN)
        and inverse_KN.shape[1] == len(x_NI)
        and table_KM.dtype == inverse_KN.dtype == torch.int32
    )
    if not fits:
        given = ", ".join(
            f"{name} {t.dtype} {list(t.shape)}"
            for name, t in (("x", x_NI), ("weight", weight_KIO), ("table", table_KM), ("inverse", inverse_KN))
        )
        raise ShapeError(
            f"expected floating point x [N, I] and weight [K, I, O], int32 table [K, M] and inverse [K, N]; got {given}"
        )


def _run(x_NI: Tensor, weight_KIO: Tensor, table_KM: Tensor, inverse_KN: Tensor) -> Tensor:
    if not _has_native(x_NI):
        return sparse_conv_reference(x_NI, weight_KIO, table_KM)
    y_MO = _like(x_NI, weight_KIO, table_KM, inverse_KN)
    _cpu.sparse_conv(x_NI.contiguous(), weight_KIO.contiguous(), table_KM.contiguous(), y_MO)
    return y_MO


def _run_neighbours(keys_N: Tensor, shifts: list[int]) -> Tensor:
    sorted_N, order_N = keys_N.sort()
    if not _has_native(keys_N.new_empty(0, dtype=torch.float32)):
        return neighbour_table_reference(sorted_N, order_N, shifts)
    table_KN = _table_like(keys_N, shifts)
    _cpu.neighbour_table(sorted_N, order_N, shifts, table_KN)
    return table_KN


def _table_like(keys_N: Tensor, shifts: list[int]) -> Tensor:
    return keys_N.new_empty(len(shifts), len(keys_N), dtype=torch.int32)


def _run_weight(grad_MO: Tensor, x_NI: Tensor, table_KM: Tensor) -> Tensor:
    """The gradient of the weight: [K, I, O], for each tap the sum over its pairs of x[n]^T grad[m]."""
    if _has_native(x_NI):
        grad_KIO = _weight_like(grad_MO, x_NI, table_KM)
        _cpu.sparse_conv_weight(x_NI.contiguous(), grad_MO.contiguous(), table_KM.contiguous(), grad_KIO)
        return grad_KIO
    taps = [(row_M, (row_M >= 0).nonzero()[:, 0]) for row_M in table_KM]
    return torch.stack([x_NI[row_M[at]].T @ grad_MO[at] for row_M, at in taps])


def _like(x_NI: Tensor, weight_KIO: Tensor, table_KM: Tensor, _inverse_KN: Tensor) -> Tensor:
    return x_NI.new_empty(table_KM.shape[1], weight_KIO.shape[2])


def _weight_like(grad_MO: Tensor, x_NI: Tensor, table_KM: Tensor) -> Tensor:
    return x_NI.new_empty(len(table_KM), x_NI.shape[1], grad_MO.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_MO: Tensor) -> tuple[Tensor | None, ...]:
    refuse_second_derivatives()
    x_NI, weight_KIO, table_KM, inverse_KN = ctx.saved_tensors
    op = torch.ops.neuromix
    needs_x, needs_weight = ctx.needs_input_grad[:2]
    grad_x_NI = op.sparse_conv(grad_MO, weight_KIO.mT, inverse_KN, table_KM) if needs_x else None
    grad_KIO = op.sparse_conv_weight(grad_MO, x_NI, table_KM) if needs_weight else None
    return grad_x_NI, grad_KIO, None, None


define_op(
    "sparse_conv(Tensor x_NI, Tensor weight_KIO, Tensor table_KM, Tensor inverse_KN) -> Tensor",
    kernel=_run,
    fake=_like,
    backward=_backward,
    keep=_keep,
)
define_op(
    "sparse_conv_weight(Tensor grad_MO, Tensor x_NI, Tensor table_KM) -> Tensor",
    kernel=_run_weight,
    fake=_weight_like,
)
define_op(
    "neighbour_table(Tensor keys_N, int[] shifts) -> Tensor",
    kernel=_run_neighbours,
    fake=_table_like,
)
