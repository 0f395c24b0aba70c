"""How a kernel becomes an op of PyTorch, `torch.ops.neuromix.NAME`, and when a call goes through it.

`torch.compile` and `torch.export` see one op forward and one backward. Eager calls take a shorter way, through an
autograd function: the dispatcher with its Python kernels costs more than a small step of neurons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neuromix.core.errors import NeuromixError

_library = torch.library.Library("neuromix", "FRAGMENT")  # type: ignore[no-untyped-call]


def define_op(
    schema: str,
    *,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    keep: Callable[..., None] | None = None,
) -> None:
    """Registers an op with its kernel on CPUs and on CUDA, its kernel on tensors without data, and its gradient.

    Args:
        schema: name, arguments and results in PyTorch's notation.
        backward, keep: as `backward` and `setup_context` of torch.library.register_autograd.
    """
    name = _library.define(schema)  # type: ignore[no-untyped-call]
    for device in ("CPU", "CUDA"):
        _library.impl(name, kernel, device)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"neuromix::{name}", fake, lib=_library)
    if backward is not None:
        torch.library.register_autograd(f"neuromix::{name}", backward, setup_context=keep, lib=_library)


def refuse_second_derivatives() -> None:
    """To be called in the backward of a kernel: its result is no function that autograd could go through again."""
    if torch.is_grad_enabled():  # within backward: create_graph=True
        raise NeuromixError(
            "the fused kernels have no second derivatives (create_graph=True); "
            "run the neurons within neuromix.ops.references_only()"
        )


def is_traced(x: Tensor) -> bool:
    """Whether this call is recorded rather than run: while compiling, without data, or under a tracer."""
    if torch.compiler.is_compiling() or (type(x) is not Tensor and type(x) is not torch.nn.Parameter):
        return True
    modes = torch._C._len_torch_dispatch_stack()
    return modes > 0 and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
