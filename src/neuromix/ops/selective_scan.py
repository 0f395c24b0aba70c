"""The selective scan of Mamba: a diagonal state space whose step size and matrices change with the token.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t        y_t = C_t . h_t

Every channel has N states of its own. The term D x, the gate, and the softplus and bias of delta are outside.

Shapes: B batch, L tokens, D channels, N states of a channel, G groups of channels, R channels of a group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from neuromix.core.errors import ShapeError, UnsupportedError
from neuromix.ops import _installed, _kernels
from neuromix.ops._native import native
from neuromix.ops._selective_scan_native import has_native_scan, is_transformed, native_scan
from neuromix.ops._tokens import check_chunk_size, check_form, check_tokens, find_resets, wide_dtype
from neuromix.ops.associative_scan import associative_scan

# "native" where the extension is installed.
FORMS = ("auto", "loop", "scan", "chunk") + (() if native is None else ("native",))


def selective_scan(
    x_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B: Tensor,
    C: Tensor,
    state_BDN: Tensor | None = None,
    *,
    mask_BL: Tensor | None = None,
    segments_BL: Tensor | None = None,
    form: str = "auto",
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t; y_t = C_t . h_t (2 Re of it where A is complex).

    The forms give the same numbers: "loop" goes step by step; "scan" takes all steps in log depth and holds
    [B, L, D, N]; "chunk" scans inside chunks, hands the state on, and computes a chunk again in the backward, so
    that it holds [B, chunk_size, D, N] only; "native" is the fused kernel on a CPU, for real A and for B and C of each
    token. It keeps the state of every 32nd step, reads x and delta and writes y: 3 B*L*D numbers forward and 8 with
    the gradients, whatever N is. What it costs is B*L*D*N exponentials each way, of 11 to 14 operations, and 3 more
    operations around each forward and 15 backward.

    Args:
        x_BLD: real.
        delta_BLD: the step sizes, > 0.
        A_DN: real part < 0; may be complex.
        B, C: [D, N], [B, L, N] or [B, L, G, N] (D/G consecutive channels share a group); complex only with A.
        state_BDN: h before the first step; None is zero.
        mask_BL: bool, False at padding: the state passes by unchanged, the output there means nothing.
        segments_BL: int64; the state starts from zero at a token of another id than that of the token before. A
            carried state belongs to the first segment of its row.
        form: "auto", "loop", "scan", "chunk", "native" or "mamba_ssm" (on a CUDA device where mamba-ssm is installed;
            what that has no kernel for goes to "chunk", and a gradient of the last state is an error); "auto" is
            "native" or "mamba_ssm" where that can be, else "chunk".
        chunk_size: steps of a chunk.

    Returns:
        y [B, L, D] in the dtype of x, and h after the last step, [B, D, N] in the dtype that was computed in: the
        widest of the inputs', and float32 at least.

    Raises:
        ShapeError: shapes or dtypes that do not fit together.
        UnknownNameError: a form that does not exist.
        UnsupportedError: form "native" of what it cannot take, "mamba_ssm" where that is not at hand.
    """
    check_form(form, (*FORMS, "mamba_ssm"))
    check_chunk_size(chunk_size)
    _check(x_BLD, delta_BLD, A_DN, B, C, state_BDN)
    batch, length = x_BLD.shape[:2]
    check_tokens(batch, length, mask_BL, segments_BL)
    if mask_BL is not None:
        delta_BLD = torch.where(mask_BL.unsqueeze(2), delta_BLD, 0.0)
    terms, A_GRN, state_BGRN = _prepare(x_BLD, delta_BLD, A_DN, B, C, state_BDN)
    terms = terms._replace(reset_BL=find_resets(mask_BL, segments_BL))
    if length == 0:
        return x_BLD.clone(), state_BGRN.flatten(1, 2)
    by_mamba_ssm = _installed.is_chosen(form, "mamba_ssm", x_BLD) and segments_BL is None
    if by_mamba_ssm and _installed.fits_mamba_ssm(x_BLD, A_DN, B, C, state_BDN):
        return _installed.scan_by_mamba_ssm(x_BLD, delta_BLD, A_DN, B, C)
    if _is_native(form, terms.x_BLGR, A_DN, B, C):
        y_BLD, state_BDN = _native(terms, A_GRN, state_BGRN)
        return y_BLD.to(x_BLD.dtype), state_BDN
    if form == "loop":
        y_BLGR, state_BGRN = _loop(terms, A_GRN, state_BGRN)
    elif form == "scan":
        y_BLGR, state_BGRN = _scan(*terms, A_GRN, state_BGRN)
    else:
        y_BLGR, state_BGRN = _chunk(terms, A_GRN, state_BGRN, chunk_size)
    return y_BLGR.flatten(2).to(x_BLD.dtype), state_BGRN.flatten(1, 2)


def selective_scan_step(
    x_BD: Tensor, delta_BD: Tensor, A_DN: Tensor, B_BN: Tensor, C_BN: Tensor, state_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of `selective_scan`: y [B, D] and the next state.

    Args:
        B_BN, C_BN: [B, N] or [B, G, N]. (Constants [D, N] are given as [1, D, N].)

    Raises:
        ShapeError: as `selective_scan`.
    """
    B, C = (t.expand(len(x_BD), *t.shape[1:]).unsqueeze(1) for t in (B_BN, C_BN))
    x_BLD, delta_BLD = x_BD.unsqueeze(1), delta_BD.unsqueeze(1)
    y_BLD, state_BDN = selective_scan(x_BLD, delta_BLD, A_DN, B, C, state_BDN, form="loop")
    return y_BLD.squeeze(1), state_BDN


class Terms(NamedTuple):
    """What changes with the step, in the dtype to compute in; a constant B or C has L = 1."""

    x_BLGR: Tensor
    delta_BLGR: Tensor
    B_BLGRN: Tensor  # R is 1 where the channels of a group share it
    C_BLGRN: Tensor
    reset_BL: Tensor | None


def _prepare(
    x_BLD: Tensor, delta_BLD: Tensor, A_DN: Tensor, B: Tensor, C: Tensor, state_BDN: Tensor | None
) -> tuple[Terms, Tensor, Tensor]:
    batch, _, channels = x_BLD.shape
    dtype = wide_dtype(x_BLD, delta_BLD, A_DN, B, C, state_BDN)
    groups = max(t.shape[2] if t.dim() == 4 else 1 for t in (B, C))
    split = (groups, channels // groups)

    def per_channel(matrix: Tensor) -> Tensor:
        matrix = matrix.to(dtype)
        if matrix.dim() == 2:
            return torch.unflatten(matrix, 0, split)[None, None]
        return matrix[:, :, None, None] if matrix.dim() == 3 else matrix.unsqueeze(3)

    if state_BDN is None:
        state_BDN = x_BLD.new_zeros(batch, *A_DN.shape, dtype=dtype)
    real = dtype.to_real() if dtype.is_complex else dtype  # torch.compile knows no to_real
    x_BLGR, delta_BLGR = (torch.unflatten(t.to(real), 2, split) for t in (x_BLD, delta_BLD))
    terms = Terms(x_BLGR, delta_BLGR, per_channel(B), per_channel(C), None)
    return terms, torch.unflatten(A_DN.to(dtype), 0, split), torch.unflatten(state_BDN.to(dtype), 1, split)


def _is_native(form: str, x_BLGR: Tensor, A_DN: Tensor, B: Tensor, C: Tensor) -> bool:
    """Whether the kernel runs; within `references_only` it does not, whatever form is asked for."""
    if form not in ("auto", "native"):
        return False
    possible = has_native_scan(x_BLGR, A_DN, B, C)
    if form == "native" and not possible and not _kernels._references_only:
        raise UnsupportedError(
            "selective_scan has form='native' on a CPU, for real A and for B and C [B, L, N] or [B, L, G, N] of the "
            f"same groups; got {x_BLGR.device.type}, A {A_DN.dtype}, B {list(B.shape)}, C {list(C.shape)}: use 'auto'"
        )
    return possible


def _native(terms: Terms, A_GRN: Tensor, state_BGRN: Tensor) -> tuple[Tensor, Tensor]:
    x_BLD, delta_BLD = terms.x_BLGR.flatten(2), terms.delta_BLGR.flatten(2)
    B_BLGN, C_BLGN = terms.B_BLGRN.squeeze(3), terms.C_BLGRN.squeeze(3)
    A_DN, state_BDN = A_GRN.flatten(0, 1), state_BGRN.flatten(1, 2)
    return native_scan(x_BLD, delta_BLD, A_DN, B_BLGN, C_BLGN, state_BDN, terms.reset_BL)


def _loop(terms: Terms, A_GRN: Tensor, state_BGRN: Tensor) -> tuple[Tensor, Tensor]:
    """The formula, step by step."""
    length = terms.x_BLGR.shape[1]
    steps = [[None] * length if t is None else _at_steps(t, length) for t in terms]
    outputs = []
    for x_BGR, delta_BGR, B_BGRN, C_BGRN, reset_B in zip(*steps, strict=True):
        decay_BGRN = (delta_BGR.unsqueeze(3) * A_GRN).exp()
        if reset_B is not None:
            decay_BGRN = torch.where(reset_B[:, None, None, None], 0.0, decay_BGRN)
        state_BGRN = decay_BGRN * state_BGRN + (delta_BGR * x_BGR).unsqueeze(3) * B_BGRN
        outputs.append(_read(C_BGRN, state_BGRN))
    return torch.stack(outputs, 1), state_BGRN


def _at_steps(x_BL: Tensor, length: int) -> tuple[Tensor, ...]:
    return x_BL.expand(-1, length, *x_BL.shape[2:]).unbind(1)


def _scan(
    x_BLGR: Tensor,
    delta_BLGR: Tensor,
    B_BLGRN: Tensor,
    C_BLGRN: Tensor,
    reset_BL: Tensor | None,
    A_GRN: Tensor,
    state_BGRN: Tensor,
) -> tuple[Tensor, Tensor]:
    """All states at once."""
    decay_BLGRN = (delta_BLGR.unsqueeze(4) * A_GRN).exp()
    if reset_BL is not None:
        decay_BLGRN = torch.where(reset_BL[:, :, None, None, None], 0.0, decay_BLGRN)
    input_BLGRN = (delta_BLGR * x_BLGR).unsqueeze(4) * B_BLGRN
    first_BGRN = decay_BLGRN[:, 0] * state_BGRN + input_BLGRN[:, 0]
    input_BLGRN = torch.cat((first_BGRN.unsqueeze(1), input_BLGRN[:, 1:]), 1)
    state_BLGRN = associative_scan(decay_BLGRN, input_BLGRN, 1)
    last_BGRN = state_BLGRN[:, -1].clone()  # a view would keep the states of all steps alive
    return _read(C_BLGRN, state_BLGRN), last_BGRN


def _chunk(terms: Terms, A_GRN: Tensor, state_BGRN: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A scan for each chunk, computed again in the backward (but not within a transform, which cannot do that)."""
    again = functools.partial(checkpoint, _scan, use_reentrant=False, preserve_rng_state=False)
    run: Callable[..., tuple[Tensor, Tensor]] = _scan if is_transformed() else again
    outputs = []
    for start in range(0, terms.x_BLGR.shape[1], size):
        part = [t if t is None or t.shape[1] == 1 else t[:, start : start + size] for t in terms]
        y_BQGR, state_BGRN = run(*part, A_GRN, state_BGRN)
        outputs.append(y_BQGR)
    return torch.cat(outputs, 1), state_BGRN


def _read(C_N: Tensor, state_N: Tensor) -> Tensor:
    product = (C_N * state_N).sum(-1)
    return 2 * product.real if product.is_complex() else product


def _check(
    x_BLD: Tensor, delta_BLD: Tensor, A_DN: Tensor, B: Tensor, C: Tensor, state_BDN: Tensor | None
) -> None:
    fits = (
        x_BLD.dim() == 3
        and delta_BLD.shape == x_BLD.shape
        and A_DN.dim() == 2
        and A_DN.shape[0] == x_BLD.shape[2]
        and x_BLD.is_floating_point()
        and delta_BLD.is_floating_point()
    )
    if not fits:
        given = ", ".join(
            f"{name} {t.dtype} {list(t.shape)}"
            for name, t in (("x", x_BLD), ("delta", delta_BLD), ("A", A_DN))
        )
        raise ShapeError(f"expected real x and delta [B, L, D] and A [D, N]; got {given}")
    batch, length, channels = x_BLD.shape
    states = A_DN.shape[1]
    for name, matrix in (("B", B), ("C", C)):
        groups = matrix.shape[2] if matrix.dim() == 4 else 1
        shapes = [(channels, states), (batch, length, states), (batch, length, groups, states)]
        if tuple(matrix.shape) not in shapes or not groups or channels % groups:
            raise ShapeError(
                f"expected {name} [D, N], [B, L, N] or [B, L, G, N] with B={batch}, L={length}, D={channels}, "
                f"N={states} and D a multiple of G; got {list(matrix.shape)}"
            )
        if matrix.is_complex() and not A_DN.is_complex():
            raise ShapeError(f"a complex {name} needs a complex A")
    several = {t.shape[2] for t in (B, C) if t.dim() == 4} - {1}
    if len(several) > 1:
        raise ShapeError(f"B and C must have the same groups, got B {list(B.shape)} and C {list(C.shape)}")
    if state_BDN is not None and state_BDN.is_complex() and not A_DN.is_complex():
        raise ShapeError("a complex state needs a complex A")
    if state_BDN is not None and state_BDN.shape != (batch, channels, states):
        raise ShapeError(
            f"expected a state [B, D, N] = {[batch, channels, states]}, got {list(state_BDN.shape)}"
        )
