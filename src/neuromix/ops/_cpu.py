"""Runs the C++ kernels of neuromix._native, on tensors that it names by their addresses."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuromix.ops._layout import DTYPES
from neuromix.ops._native import native
from neuromix.ops.spike import KINDS

if TYPE_CHECKING:
    from neuromix.ops._lif_call import Call, Gradients, Inputs, Outputs

# In the order of the enumerations of lif.h.
RESETS = ("hard", "soft", "next", "none")
EXTRAS = ("none", "synapse", "adaptation")


def lif(call: Call, inputs: Inputs, outputs: Outputs) -> None:
    """Fills in the output, and the last states where there is memory for them."""
    assert native is not None
    native.lif(*_arguments(call, inputs), *map(_address, outputs), torch.get_num_threads())


def lif_backward(call: Call, inputs: Inputs, grads: Outputs, gradients: Gradients) -> None:
    """Fills in the gradients that there is memory for.

    Args:
        grads: of the output and, or None, of the last states.
    """
    assert native is not None and grads[0] is not None
    native.lif_backward(
        *_arguments(call, inputs),
        *(_address(grads[0]), grads[0].stride(0), _address(grads[1]), _address(grads[2])),
        *map(_address, gradients),
        torch.get_num_threads(),
    )


def levels(
    x_T: Tensor, grad_T: Tensor | None, output_T: Tensor, most: float, gain: float, unit: float
) -> None:
    """Fills in the output, or the gradient of x where there is one of the output."""
    assert native is not None
    steps = len(x_T)
    native.levels(
        *(_number(x_T), gain, most, unit, steps, x_T.numel() // steps, x_T.data_ptr(), x_T.stride(0)),
        *(_address(grad_T), 0 if grad_T is None else grad_T.stride(0)),
        *(output_T.data_ptr(), torch.get_num_threads()),
    )


def _arguments(call: Call, inputs: Inputs) -> tuple[Any, ...]:
    """dtype, options, shape and inputs as the kernels take them."""
    x_T, v, extra, table, *shape = inputs
    options = _options(tuple(call.row), tuple(call[1:-2]))
    arrays = (x_T.data_ptr(), x_T.stride(0), _address(v), _address(extra), _address(table))
    return _number(x_T), options, shape, *arrays


@functools.lru_cache(maxsize=1024)
def _options(row: tuple[float, ...], call: tuple[Any, ...]) -> tuple[Any, ...]:
    """What the kernels take as options: names become numbers."""
    v_init, v_reset, fire_at, reset, extra, *switches, surrogate, shape, scale, closed = call
    numbers = (RESETS.index(reset), EXTRAS.index(extra))
    return row, v_init, v_reset, fire_at, *numbers, *switches, KINDS.index(surrogate), shape, scale, closed


def _number(x_T: Tensor) -> int:
    return DTYPES["cpu"].index(x_T.dtype)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def sparse_conv(x_NI: Tensor, weight_KIO: Tensor, table_KM: Tensor, y_MO: Tensor) -> None:
    """Fills in the output of a sparse convolution; all tensors are contiguous."""
    assert native is not None
    shape = (*table_KM.shape, *x_NI.shape, y_MO.shape[1])
    arrays = map(_address, (x_NI, weight_KIO, table_KM, y_MO))
    native.sparse_conv(_number(x_NI), shape, *arrays, torch.get_num_threads())


def sparse_conv_weight(x_NI: Tensor, grad_MO: Tensor, table_KM: Tensor, grad_KIO: Tensor) -> None:
    """Fills in the gradient of the weight of a sparse convolution; all tensors are contiguous."""
    assert native is not None
    shape = (*table_KM.shape, *x_NI.shape, grad_MO.shape[1])
    arrays = map(_address, (x_NI, grad_MO, table_KM, grad_KIO))
    native.sparse_conv_weight(_number(x_NI), shape, *arrays, torch.get_num_threads())


def neighbour_table(sorted_N: Tensor, order_N: Tensor, shifts: list[int], table_KN: Tensor) -> None:
    """Fills in the rows whose keys are larger by each shift."""
    assert native is not None
    shift_K = torch.tensor(shifts, dtype=torch.int64)
    arrays = map(_address, (sorted_N, order_N, shift_K, table_KN))
    native.neighbour_table(*table_KN.shape, *arrays, torch.get_num_threads())


def selective_scan(
    inputs: list[Tensor], reset_BL: Tensor | None, state_BDN: Tensor, outputs: tuple[Tensor, ...]
) -> None:
    """Fills in y, the last state and, where there is memory for them, the states before chunks; all is contiguous.

    Args:
        inputs: x, delta, A, B, C.
    """
    assert native is not None
    y_BLD, last_BDN, kept_BTDN = outputs
    kept = _address(kept_BTDN) if kept_BTDN.numel() else 0
    native.selective_scan(
        *_scan_arguments(inputs, reset_BL),
        *map(_address, (state_BDN, y_BLD, last_BDN)),
        kept,
        torch.get_num_threads(),
    )


def selective_scan_backward(
    inputs: list[Tensor], reset_BL: Tensor | None, given: tuple[Tensor, ...], gradients: list[Tensor]
) -> None:
    """Fills in the gradients of x, delta, A, B, C and the first state; all is contiguous.

    Args:
        inputs: x, delta, A, B, C.
        given: the states before chunks, and the gradients of y and of the last state.
    """
    assert native is not None
    into = list(map(_address, gradients))
    native.selective_scan_backward(
        *_scan_arguments(inputs, reset_BL), *map(_address, given), into, torch.get_num_threads()
    )


def _scan_arguments(inputs: list[Tensor], reset_BL: Tensor | None) -> tuple[Any, ...]:
    x_BLD, _, A_DN, B_BLGN, _ = inputs
    sizes = (*x_BLD.shape, A_DN.shape[1], B_BLGN.shape[2])
    return _number(x_BLD), sizes, [*map(_address, inputs), _address(reset_BL)]
