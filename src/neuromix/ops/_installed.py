"""Kernels of other libraries that are used on a CUDA device where they are installed: their layouts, their limits.

`recurrence` goes to flash-linear-attention (`fla.ops.gla.chunk_gla`, `fla.ops.simple_gla.chunk_simple_gla`), and
`selective_scan` to mamba-ssm (`selective_scan_fn`), with form "auto" or their names. What they cannot do goes to the
chunk form: segments, float64, complex numbers, exclusive reading; for mamba-ssm also a first state and constant B, C.

What was run: the conversion of arguments and results, against stand-ins of the same signatures that compute the
reference. The kernels themselves were not run, as that takes a GPU with those libraries. Their products may use TF32,
and they take differences of running sums of log decays: a reset by a decay of -1e4 is not exact there.

Shapes: B batch, L tokens, H heads, G heads or groups, K key width, V value width, D channels, N states.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from neuromix.core.errors import UnsupportedError
from neuromix.ops import _kernels

_WIDEST_KEY = 256  # of the kernels of flash-linear-attention
_PACKAGES = {"fla": "flash-linear-attention", "mamba_ssm": "mamba-ssm"}


def is_chosen(form: str, library: str, x: Tensor) -> bool:
    """Whether a call is for a library's kernels: by its name, or by "auto" where they are at hand.

    Raises:
        UnsupportedError: asked for by name where they are not at hand.
    """
    if form not in ("auto", library) or _kernels._references_only:
        return False
    at_hand = _is_installed(library) and _is_on_gpu(x) and not torch.compiler.is_compiling()
    if form == library and not at_hand:
        raise UnsupportedError(
            f"form={library!r} needs the package {_PACKAGES[library]}, a CUDA device and a call that is not being "
            f"compiled; got {x.device.type}: use form='auto'"
        )
    return at_hand


def fits_fla(q_BLGK: Tensor, k_BLGK: Tensor, v_BLHV: Tensor, log_decay: Tensor) -> bool:
    """Whether flash-linear-attention has a kernel for operands of these shapes and dtypes."""
    plain = not any(t.is_complex() or t.dtype == torch.float64 for t in (q_BLGK, k_BLGK, v_BLHV, log_decay))
    return plain and 0 < q_BLGK.shape[3] <= _WIDEST_KEY and v_BLHV.numel() > 0


def recurrence_by_fla(
    q_BLGK: Tensor, k_BLGK: Tensor, v_BLHV: Tensor, log_decay: Tensor, state_BHKV: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """o and the last state; log_decay is [B or 1, L, H] or [B or 1, L, H, K]."""
    repeats = v_BLHV.shape[2] // q_BLGK.shape[2]
    dtype = v_BLHV.dtype
    q, k = (t.to(dtype).repeat_interleave(repeats, 2).contiguous() for t in (q_BLGK, k_BLGK))
    g = log_decay.float().expand(len(v_BLHV), *log_decay.shape[1:]).contiguous()
    name, function = ("gla", "chunk_gla") if g.dim() == 4 else ("simple_gla", "chunk_simple_gla")
    run = _function(f"fla.ops.{name}", function)
    o_BLHV, last_BHKV = run(
        q=q,
        k=k,
        v=v_BLHV.contiguous(),
        g=g,
        scale=scale,
        initial_state=state_BHKV.float().contiguous(),
        output_final_state=True,
    )
    return o_BLHV, last_BHKV


def fits_mamba_ssm(x_BLD: Tensor, A_DN: Tensor, B: Tensor, C: Tensor, state_BDN: Tensor | None) -> bool:
    """Whether mamba-ssm has a kernel for operands of these shapes and dtypes."""
    plain = not any(t.is_complex() or t.dtype == torch.float64 for t in (x_BLD, A_DN, B, C))
    of_tokens = B.dim() > 2 and C.dim() > 2 and A_DN.shape[1] <= _WIDEST_KEY
    return plain and of_tokens and state_BDN is None and x_BLD.numel() > 0


def scan_by_mamba_ssm(
    x_BLD: Tensor, delta_BLD: Tensor, A_DN: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """y and the last state, from a state of zeros; a gradient of the last state is an error, as the kernel has none."""
    run = _function("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    x_BDL, delta_BDL = x_BLD.mT.contiguous(), delta_BLD.to(x_BLD.dtype).mT.contiguous()
    # [B, L, N] -> [B, N, L], and with groups [B, L, G, N] -> [B, G, N, L].
    B_BNL, C_BNL = (t.to(x_BLD.dtype).movedim(1, -1).contiguous() for t in (B, C))
    y_BDL, last_BDN = run(x_BDL, delta_BDL, A_DN.float().contiguous(), B_BNL, C_BNL, return_last_state=True)
    last_BDN = _WithoutGradient.apply(last_BDN.float())  # type: ignore[no-untyped-call]
    return y_BDL.mT, last_BDN


class _WithoutGradient(torch.autograd.Function):
    """Hands a tensor on, and refuses a gradient that would be dropped in silence."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> None:
        if grads[0] is not None:
            raise UnsupportedError(
                "mamba-ssm has no gradient of the last state; use form='chunk' to train through it"
            )


@functools.cache
def _is_installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _is_on_gpu(x: Tensor) -> bool:
    return x.device.type == "cuda"


def _function(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)
