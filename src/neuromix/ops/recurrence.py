"""The recurrence of linear attention: a decaying sum of outer products, read by queries.

    S_t = exp(log_decay_t) S_{t-1} + k_t v_t^T        o_t = scale * q_t^T S_t

Linear attention, retention, GLA, Mamba-2 and RWKV-6 are this op with other decays, and so are diagonal state spaces
(complex decays). Every form takes and returns the state.

Shapes: B batch, L tokens, H heads, G heads of queries and keys, K key width, V value width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuromix.core.errors import ShapeError
from neuromix.ops import _installed
from neuromix.ops._recurrence_chunk import chunk_by_heads
from neuromix.ops._recurrence_keys import chunk_by_keys
from neuromix.ops._tokens import check_chunk_size, check_form, check_tokens, find_resets, wide_dtype

FORMS = ("auto", "loop", "parallel", "chunk")


def recurrence(
    q_BLHK: Tensor,
    k_BLHK: Tensor,
    v_BLHV: Tensor,
    log_decay: Tensor,
    state_BHKV: Tensor | None = None,
    *,
    scale: float = 1.0,
    bonus_HK: Tensor | None = None,
    exclusive: bool = False,
    mask_BL: Tensor | None = None,
    segments_BL: Tensor | None = None,
    form: str = "auto",
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """S_t = exp(log_decay_t) S_{t-1} + k_t v_t^T; o_t = scale * q_t^T S_t.

    With `exclusive`, o_t = scale * q_t^T (S_{t-1} + diag(bonus) k_t v_t^T). With a complex decay, o_t is 2 Re of
    that. The forms give the same numbers: "loop" goes step by step; "parallel" takes all steps as one chunk (work
    grows with L^2, its memory with L^2 for decays by heads and L log L by keys); "chunk" works in parallel inside
    chunks and hands the state on (work L * chunk_size). All of them only ever add up log decays, so no exponential
    overflows and a decay of 0 (log_decay -inf, or -1e4) is an exact reset.

    Args:
        q_BLHK, k_BLHK: may have fewer heads G, each used by H/G consecutive heads of v. Complex only with a complex
            log_decay.
        v_BLHV: real.
        log_decay: natural logarithm, real part <= 0, by its number of axes: [H], [H, K] (real or complex),
            [B, L, H] or [B, L, H, K].
        state_BHKV: S before the first step; None is zero.
        scale: a factor of q.
        bonus_HK: the weight of a step's own product, for `exclusive` only; None is zero.
        mask_BL: bool, False at padding: the state passes by unchanged, the output there means nothing.
        segments_BL: int64; the state starts from zero at a token of another id than that of the token before. A
            carried state belongs to the first segment of its row.
        form: "auto", "loop", "parallel", "chunk" or "fla" (flash-linear-attention, on a CUDA device where it is
            installed; what that has no kernel for goes to "chunk"); "auto" is "fla" where that can be, else "chunk".
        chunk_size: steps of a chunk.

    Returns:
        o [B, L, H, V] in the dtype of v, and S after the last step, [B, H, K, V] in the dtype that was computed in:
        the widest of the inputs', and float32 at least.

    Raises:
        ShapeError: shapes, dtypes or options that do not fit together.
        UnknownNameError: a form that does not exist.
        UnsupportedError: form "fla" where that is not at hand.
    """
    check_form(form, (*FORMS, "fla"))
    check_chunk_size(chunk_size)
    _check_sequence(q_BLHK, k_BLHK, v_BLHV, log_decay)
    _check_options(q_BLHK, v_BLHV, log_decay, state_BHKV, bonus_HK, exclusive)
    batch, length = v_BLHV.shape[:2]
    check_tokens(batch, length, mask_BL, segments_BL)
    terms, state = _prepare(q_BLHK, k_BLHK, v_BLHV, log_decay, state_BHKV, bonus_HK, scale)
    terms = _with_tokens(terms, mask_BL, find_resets(mask_BL, segments_BL))
    if length == 0:
        return v_BLHV.clone(), state
    by_fla = _installed.is_chosen(form, "fla", v_BLHV) and segments_BL is None and not exclusive
    if by_fla and _installed.fits_fla(q_BLHK, terms.k_BLGK, v_BLHV, terms.log_decay):
        return _installed.recurrence_by_fla(q_BLHK, terms.k_BLGK, v_BLHV, terms.log_decay, state, scale)
    size = length if form == "parallel" else min(chunk_size, length)
    if form == "loop":
        o_BLHV, state = _loop(terms, state, exclusive)
    elif terms.log_decay.dim() == 3:
        o_BLHV, state = chunk_by_heads(*terms, state, exclusive, size)
    else:
        o_BLHV, state = chunk_by_keys(*terms, state, exclusive, size)
    return _as_output(o_BLHV, v_BLHV), state


def recurrence_step(
    q_BHK: Tensor,
    k_BHK: Tensor,
    v_BHV: Tensor,
    log_decay: Tensor,
    state_BHKV: Tensor,
    *,
    scale: float = 1.0,
    bonus_HK: Tensor | None = None,
    exclusive: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of `recurrence`: o [B, H, V] and the next state.

    Args:
        log_decay: [H], [B, H] or [B, H, K] real, or [H, K] complex. (A real constant [H, K] is given as [1, H, K]:
            with two axes it could be taken for [B, H].)

    Raises:
        ShapeError: as `recurrence`.
    """
    if log_decay.dim() == 3 or (log_decay.dim() == 2 and not log_decay.is_complex()):
        log_decay = log_decay.expand(len(v_BHV), *log_decay.shape[1:]).unsqueeze(1)
    q_BLHK, k_BLHK, v_BLHV = q_BHK.unsqueeze(1), k_BHK.unsqueeze(1), v_BHV.unsqueeze(1)
    _check_sequence(q_BLHK, k_BLHK, v_BLHV, log_decay)
    _check_options(q_BLHK, v_BLHV, log_decay, state_BHKV, bonus_HK, exclusive)
    terms, state = _prepare(q_BLHK, k_BLHK, v_BLHV, log_decay, state_BHKV, bonus_HK, scale)
    o_BLHV, state = _loop(terms, state, exclusive)
    return _as_output(o_BLHV, v_BLHV).squeeze(1), state


class Terms(NamedTuple):
    """The operands in the dtype to compute in; log_decay is [B or 1, L, H] or [B or 1, L, H, K]."""

    q_BLGK: Tensor
    k_BLGK: Tensor
    v_BLHV: Tensor
    log_decay: Tensor
    bonus_HK: Tensor | None


def _prepare(
    q_BLGK: Tensor,
    k_BLGK: Tensor,
    v_BLHV: Tensor,
    log_decay: Tensor,
    state_BHKV: Tensor | None,
    bonus_HK: Tensor | None,
    scale: float,
) -> tuple[Terms, Tensor]:
    """The operands of one dtype, and the state."""
    batch, length, heads, values = v_BLHV.shape
    dtype = wide_dtype(q_BLGK, k_BLGK, v_BLHV, log_decay, state_BHKV, bonus_HK)
    if state_BHKV is None:
        state_BHKV = v_BLHV.new_zeros(batch, heads, q_BLGK.shape[3], values, dtype=dtype)
    if log_decay.dim() < 3:
        log_decay = log_decay.expand(1, length, *log_decay.shape)
    bonus_HK = None if bonus_HK is None else bonus_HK.to(dtype)
    q_BLGK, k_BLGK, v_BLHV, log_decay = (t.to(dtype) for t in (q_BLGK, k_BLGK, v_BLHV, log_decay))
    return Terms(q_BLGK * scale, k_BLGK, v_BLHV, log_decay, bonus_HK), state_BHKV.to(dtype)


def _with_tokens(terms: Terms, mask_BL: Tensor | None, reset_BL: Tensor | None) -> Terms:
    """Padding neither decays the state nor adds to it; the first token of a segment forgets it."""

    def fill(x: Tensor, where_BL: Tensor, value: float) -> Tensor:
        at = where_BL.view(*where_BL.shape, *[1] * (x.dim() - 2))
        return torch.where(at, value, x)

    k_BLGK, log_decay = terms.k_BLGK, terms.log_decay
    if mask_BL is not None:
        k_BLGK, log_decay = fill(k_BLGK, ~mask_BL, 0.0), fill(log_decay, ~mask_BL, 0.0)
    if reset_BL is not None:
        log_decay = fill(log_decay, reset_BL, float("-inf"))
    return terms._replace(k_BLGK=k_BLGK, log_decay=log_decay)


def _loop(terms: Terms, state_BHKV: Tensor, exclusive: bool) -> tuple[Tensor, Tensor]:
    """The formula, step by step."""
    repeats = terms.v_BLHV.shape[2] // terms.q_BLGK.shape[2]
    q_LBHK, k_LBHK = (t.repeat_interleave(repeats, 2).unbind(1) for t in (terms.q_BLGK, terms.k_BLGK))
    decay = terms.log_decay.exp()
    decay_LBHK = (decay if decay.dim() == 4 else decay.unsqueeze(3)).unbind(1)
    steps = zip(q_LBHK, k_LBHK, terms.v_BLHV.unbind(1), decay_LBHK, strict=True)
    outputs = []
    for q_BHK, k_BHK, v_BHV, decay_BHK in steps:
        new_BHKV = k_BHK.unsqueeze(3) * v_BHV.unsqueeze(2)
        read_BHKV = state_BHKV
        state_BHKV = decay_BHK.unsqueeze(3) * state_BHKV + new_BHKV
        if not exclusive:
            read_BHKV = state_BHKV
        elif terms.bonus_HK is not None:
            read_BHKV = read_BHKV + terms.bonus_HK.unsqueeze(2) * new_BHKV
        outputs.append((q_BHK.unsqueeze(2) @ read_BHKV).squeeze(2))
    return torch.stack(outputs, 1), state_BHKV


def _as_output(o_BLHV: Tensor, v_BLHV: Tensor) -> Tensor:
    return (2 * o_BLHV.real if o_BLHV.is_complex() else o_BLHV).to(v_BLHV.dtype)


def _check_sequence(q_BLGK: Tensor, k_BLGK: Tensor, v_BLHV: Tensor, log_decay: Tensor) -> None:
    fits = (
        q_BLGK.dim() == v_BLHV.dim() == 4
        and k_BLGK.shape == q_BLGK.shape
        and v_BLHV.shape[:2] == q_BLGK.shape[:2]
        and q_BLGK.shape[2] > 0
        and v_BLHV.shape[2] % q_BLGK.shape[2] == 0
        and v_BLHV.is_floating_point()
    )
    if not fits:
        given = ", ".join(
            f"{name} {t.dtype} {list(t.shape)}" for name, t in (("q", q_BLGK), ("k", k_BLGK), ("v", v_BLHV))
        )
        raise ShapeError(
            f"expected q and k [B, L, G, K] and v [B, L, H, V] with H a multiple of G; got {given}"
        )
    batch, length, heads, _ = v_BLHV.shape
    keys = q_BLGK.shape[3]
    shapes = [(heads,), (heads, keys), (batch, length, heads), (batch, length, heads, keys)]
    if tuple(log_decay.shape) not in shapes or not (log_decay.is_floating_point() or log_decay.is_complex()):
        raise ShapeError(
            f"expected log_decay [H], [H, K], [B, L, H] or [B, L, H, K] with B={batch}, L={length}, H={heads}, "
            f"K={keys}; got {log_decay.dtype} {list(log_decay.shape)}"
        )


def _check_options(
    q_BLGK: Tensor,
    v_BLHV: Tensor,
    log_decay: Tensor,
    state_BHKV: Tensor | None,
    bonus_HK: Tensor | None,
    exclusive: bool,
) -> None:
    batch, _, heads, values = v_BLHV.shape
    keys = q_BLGK.shape[3]
    state = [batch, heads, keys, values]
    if state_BHKV is not None and list(state_BHKV.shape) != state:
        raise ShapeError(f"expected a state [B, H, K, V] = {state}, got {list(state_BHKV.shape)}")
    if bonus_HK is not None and not exclusive:
        raise ShapeError(
            "bonus_HK is for exclusive=True, where a step does not read its own product otherwise"
        )
    if bonus_HK is not None and list(bonus_HK.shape) != [heads, keys]:
        raise ShapeError(f"expected a bonus [H, K] = {[heads, keys]}, got {list(bonus_HK.shape)}")
    others = [t for t in (q_BLGK, state_BHKV) if t is not None]
    if not log_decay.is_complex() and any(t.is_complex() for t in others):
        raise ShapeError("complex q, k or state need a complex log_decay [H, K]")
