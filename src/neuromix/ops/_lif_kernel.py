"""The fused kernels of `lif`: as one op forward and one backward, `neuromix::lif` and `neuromix::lif_backward`.

`torch.compile` and `torch.export` see these ops. Eager calls take the short way through an autograd function: the
dispatcher would cost more than a small step of neurons.

Shapes: T spike time, then any neuron axes; C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuromix.ops._kernels import kernels_for
from neuromix.ops._layout import arithmetic_dtype, dense_steps, laid_out_as, new_steps, step_strides
from neuromix.ops._lif_call import Call, Inputs
from neuromix.ops._register import define_op, is_traced, refuse_second_derivatives
from neuromix.ops.spike import Slope

NO_SLOPE = Slope("sigmoid", 1.0)  # of what never fires

_OPTIONS = (
    "float[] row, float v_init, float v_reset, float fire_at, str reset, str extra_kind, bool strict, "
    "bool detach_reset, bool ratio, str surrogate, float shape, float scale, bool closed, int channel_axis, "
    "bool return_state"
)
_Outputs = tuple[Tensor, Tensor, Tensor]
_Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def run(x_T: Tensor, v: Tensor | None, extra: Tensor | None, table: Tensor | None, call: Call) -> _Outputs:
    """Output and last state; the states are empty unless `call.return_state`."""
    if is_traced(x_T):
        outputs: _Outputs = torch.ops.neuromix.lif(x_T, v, extra, table, *call)
        return outputs
    x_T = dense_steps(x_T)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x_T, v, extra, table)):
        outputs = _Lif.apply(x_T, v, extra, table, call)  # type: ignore[no-untyped-call]
        return outputs
    return _forward(x_T, v, extra, table, call)


class _Lif(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_T: Tensor, v: Tensor | None, extra: Tensor | None, table: Tensor | None, call: Call
    ) -> _Outputs:
        _keep(ctx, (x_T, v, extra, table, *call))
        return _forward(x_T, v, extra, table, call)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        arguments: list[Any] = [*grads, *ctx.saved_tensors, ctx.call, list(ctx.needs_input_grad[:4])]
        return _wanted(ctx, _backward(*arguments), 1)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any = None) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:4])
    ctx.call = Call(*inputs[4:])


def _wanted(ctx: Any, gradients: _Gradients, others: int) -> tuple[Tensor | None, ...]:
    wanted = (g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad, strict=False))
    return (*wanted, *(None,) * others)


def _inputs(x_T: Tensor, v: Tensor | None, extra: Tensor | None, table: Tensor | None, call: Call) -> Inputs:
    """The same as memory that a kernel can read, and how it walks over it."""
    x_T = dense_steps(x_T)
    steps, channels, inner = x_T.shape[0], 1, 1
    if table is not None:
        table, channels = table.contiguous(), table.shape[1]
        inner = step_strides(x_T)[call.channel_axis] if channels > 1 else 1
    v, extra = _states(x_T, v, extra)
    return Inputs(x_T, v, extra, table, steps, x_T.numel() // steps, channels, inner)


def _states(x_T: Tensor, *states: Tensor | None) -> list[Tensor | None]:
    """States, or gradients of some, laid out as a step."""
    return [None if state is None else laid_out_as(state, x_T) for state in states]


def _forward(
    x_T: Tensor, v: Tensor | None, extra: Tensor | None, table: Tensor | None, call: Call
) -> _Outputs:
    inputs = _inputs(x_T, v, extra, table, call)
    output, v_last, extra_last = outputs = _new_outputs(inputs.x_T, call)
    last = (v_last if call.return_state else None, extra_last if extra_last.numel() else None)
    kernels_for(x_T).lif(call, inputs, (output, *last))
    return outputs


def _new_outputs(x_T: Tensor, call: Call) -> _Outputs:
    state_dtype = arithmetic_dtype(x_T.dtype)
    output = new_steps(x_T, x_T.shape[0])
    v = new_steps(x_T, dtype=state_dtype) if call.return_state else x_T.new_empty(0)
    has_extra = call.return_state and call.extra_kind != "none"
    return output, v, new_steps(x_T, dtype=state_dtype) if has_extra else x_T.new_empty(0)


def _backward(
    grad: Tensor | None,
    grad_v: Tensor | None,
    grad_extra: Tensor | None,
    x_T: Tensor,
    v: Tensor | None,
    extra: Tensor | None,
    table: Tensor | None,
    call: Call,
    wanted: list[bool],
) -> _Gradients:
    inputs = _inputs(x_T, v, extra, table, call)
    x_T = inputs.x_T
    if grad is None:
        grad = new_steps(x_T).zero_().expand_as(x_T)
    if not call.return_state:
        grad_v = grad_extra = None
    grads = (laid_out_as(grad, x_T), *_states(x_T, grad_v, grad_extra))
    gradients = _new_gradients(*inputs[:4], wanted)
    into = [g if want else None for g, want in zip(gradients, wanted, strict=True)]
    kernels_for(x_T).lif_backward(call, inputs, grads, into)
    return gradients


def _new_gradients(
    x_T: Tensor, v: Tensor | None, extra: Tensor | None, table: Tensor | None, wanted: list[bool]
) -> _Gradients:
    def nothing() -> Tensor:
        return x_T.new_empty(0)

    of_x = new_steps(x_T, x_T.shape[0]) if wanted[0] else nothing()
    of_v = new_steps(x_T, dtype=v.dtype) if v is not None and wanted[1] else nothing()
    of_extra = new_steps(x_T, dtype=extra.dtype) if extra is not None and wanted[2] else nothing()
    of_table = torch.empty_like(table) if table is not None and wanted[3] else nothing()
    return of_x, of_v, of_extra, of_table


# The ops. Their fake kernels share the code that lays out the outputs of the real ones.


def _forward_op(
    x_T: Tensor, v: Tensor | None, extra: Tensor | None, table: Tensor | None, *call: Any
) -> _Outputs:
    return _forward(x_T, v, extra, table, Call(*call))


def _backward_op(*arguments: Any) -> _Gradients:
    unpacked: list[Any] = [*arguments[:7], Call(*arguments[7:-1]), arguments[-1]]
    return _backward(*unpacked)


def _fake_forward(
    x_T: Tensor, v: Tensor | None, extra: Tensor | None, table: Tensor | None, *call: Any
) -> _Outputs:
    return _new_outputs(dense_steps(x_T), Call(*call))


def _fake_backward(*arguments: Any) -> _Gradients:
    x_T, v, extra, table = arguments[3:7]
    return _new_gradients(dense_steps(x_T), v, extra, table, arguments[-1])


def _backward_through_op(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:4])
    gradients = torch.ops.neuromix.lif_backward(*grads, *ctx.saved_tensors, *ctx.call, wanted)
    return _wanted(ctx, gradients, len(Call._fields))


_TENSORS = "Tensor x_T, Tensor? v, Tensor? extra, Tensor? table"
define_op(
    f"lif({_TENSORS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    kernel=_forward_op,
    fake=_fake_forward,
    backward=_backward_through_op,
    keep=_keep,
)
define_op(
    f"lif_backward(Tensor? grad, Tensor? grad_v, Tensor? grad_extra, {_TENSORS}, {_OPTIONS}, bool[] wanted) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_op,
    fake=_fake_backward,
)
