"""WKV, the token mixing of RWKV-4 (Peng et al., EMNLP 2023): an average of values that fades channel by channel.

With w <= 0 the logarithm of the decay and u the bonus of the present token, for each channel:
    y_t = (sum_{s<t} e^{(t-1-s) w + k_s} v_s + e^{u + k_t} v_t) / (the same sums without v).
The two sums are kept as (a e^p, b e^p), where p is the largest exponent in them, so that nothing overflows. Adding up
such triples is associative, which gives the parallel forms.

Shapes: B batch, L tokens, C channels; Q tokens and N chunks of the chunked form; ... any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from neuromix.core.errors import ShapeError
from neuromix.ops._layout import arithmetic_dtype
from neuromix.ops._tokens import check_chunk_size, check_form, check_tokens, find_resets, wide_dtype

EMPTY = -1e38  # the exponent of a sum without terms: finite, so that differences of two of them are 0


class WkvState(NamedTuple):
    """Both sums over the tokens so far, a e^p of weighted values and b e^p of weights: [B, C] each."""

    a: Tensor
    b: Tensor
    p: Tensor


class Sums(NamedTuple):
    """Sums over stretches of tokens, [B, ..., L, C] each, and the places where the stretches end."""

    a: Tensor
    b: Tensor
    p: Tensor
    steps: Tensor  # real tokens up to there, [1 or B, ..., L, 1]
    run: Tensor | None  # which run of equal segments that is, [B, ..., L, 1]; None: all are one


def wkv(
    k_BLC: Tensor,
    v_BLC: Tensor,
    decay_C: Tensor,
    bonus_C: Tensor,
    state: WkvState | None = None,
    *,
    mask_BL: Tensor | None = None,
    segments_BL: Tensor | None = None,
    form: str = "auto",
    chunk_size: int = 64,
) -> tuple[Tensor, WkvState]:
    """The whole sequence, from `state`.

    Args:
        decay_C: w, the natural logarithm of what is left of a token after a step, <= 0.
        bonus_C: u, added to the exponent of the present token.
        state: sums before the first token; None: none.
        mask_BL: True at real tokens. A padded one leaves the state as it is; its output means nothing.
        segments_BL: numbers of the sequences that are packed in a row; where they change, the state starts anew. A
            given state belongs to the first.
        form: "loop" over tokens, the reference; "scan", of logarithmic depth; "chunk": scans inside chunks of
            `chunk_size`, and a loop over these; "auto".

    Returns:
        y [B, L, C] in the dtype of v, and the state after the last token, in float32 at least.

    Raises:
        ShapeError: tensors that do not fit each other, a chunk without tokens.
        UnknownNameError: no such form.
    """
    _require_fit(k_BLC, v_BLC, decay_C, bonus_C, state)
    check_tokens(k_BLC.shape[0], k_BLC.shape[1], mask_BL, segments_BL)
    check_form(form, FORMS)
    check_chunk_size(chunk_size)
    dtype = wide_dtype(k_BLC, v_BLC)
    k, v, w, u = (x.to(dtype) for x in (k_BLC, v_BLC, decay_C, bonus_C))
    state = empty_state(k.sum(1)) if state is None else WkvState(*(x.to(dtype) for x in state))
    if k.shape[1] == 0:
        return v_BLC, state
    terms = _terms(k, v, mask_BL, segments_BL)
    run = terms.run
    start, run_1 = torch.zeros_like(terms.steps[:, :1]), None if run is None else run[:, :1]
    before = Sums(state.a[:, None], state.b[:, None], state.p[:, None], start, run_1)
    sums = FORMS[form](terms, w, before, chunk_size)
    earlier = _map(lambda b, x: torch.cat([b, x[:, :-1]], 1), before, sums)
    y_BLC = _read(_linked(earlier, terms), k, v, u)
    return y_BLC.to(v_BLC.dtype), WkvState(*(x[:, -1] for x in sums[:3]))


def wkv_step(
    k_BC: Tensor, v_BC: Tensor, decay_C: Tensor, bonus_C: Tensor, state: WkvState
) -> tuple[Tensor, WkvState]:
    """One token: y [B, C] in the dtype of v, and the state after it."""
    dtype = state.p.dtype
    k, v, w, u = (x.to(dtype) for x in (k_BC, v_BC, decay_C, bonus_C))
    after = _added(state, WkvState(v, torch.ones_like(v), k), state.p + w)
    return _read(state, k, v, u).to(v_BC.dtype), after


def empty_state(like_BC: Tensor) -> WkvState:
    """The state before any token, in float32 at least."""
    zeros = torch.zeros_like(like_BC, dtype=arithmetic_dtype(like_BC.dtype))
    return WkvState(zeros, zeros.clone(), torch.full_like(zeros, EMPTY))


def _added(earlier: WkvState | Sums, later: WkvState | Sums, decayed: Tensor) -> WkvState:
    """The sums of two stretches of tokens, `decayed` being the exponents of the earlier one by now."""
    p = torch.maximum(decayed, later.p)
    fading, fresh = (decayed - p).exp(), (later.p - p).exp()
    return WkvState(fading * earlier.a + fresh * later.a, fading * earlier.b + fresh * later.b, p)


def _read(earlier: WkvState | Sums, k: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """The average over the earlier tokens and the present one."""
    present = u + k
    p = torch.maximum(earlier.p, present)
    fading, fresh = (earlier.p - p).exp(), (present - p).exp()
    return (fading * earlier.a + fresh * v) / (fading * earlier.b + fresh)


def _terms(k: Tensor, v: Tensor, mask_BL: Tensor | None, segments_BL: Tensor | None) -> Sums:
    """Every token as a sum of one term; padding as a sum of none."""
    real = k.new_ones(1, k.shape[1]) if mask_BL is None else mask_BL.to(k.dtype)
    resets_BL = find_resets(mask_BL, segments_BL)
    run = None if resets_BL is None else resets_BL.cumsum(1)[..., None]
    terms = Sums(v, torch.ones_like(v), k, real.cumsum(1)[..., None], run)
    return terms if mask_BL is None else _kept(terms, mask_BL[..., None])


def _kept(sums: Sums, where: Tensor) -> Sums:
    """The sums at some places, and sums of no term at the others."""
    a, b, p, steps, run = sums
    a, b, p = torch.where(where, a, 0.0), torch.where(where, b, 0.0), torch.where(where, p, EMPTY)
    return Sums(a, b, p, steps, run)


def _linked(earlier: Sums, later: Sums) -> Sums:
    """The earlier sums, but of no term where a segment has begun since."""
    if earlier.run is None or later.run is None:
        return earlier
    return _kept(earlier, earlier.run == later.run)


def _merged(earlier: Sums, later: Sums, w: Tensor) -> Sums:
    """The sums over neighbouring stretches."""
    linked = _linked(earlier, later)
    decayed = torch.addcmul(linked.p, later.steps - earlier.steps, w)
    return Sums(*_added(linked, later, decayed), later.steps, later.run)


def _scan(terms: Sums, w: Tensor) -> Sums:
    """The sums over all tokens up to each: those over pairs first, and from them the ones that end between."""
    length = terms.p.shape[-2]
    if length == 1:
        return terms
    first, second = _places(terms, slice(0, None, 2)), _places(terms, slice(1, None, 2))
    odd = _scan(_merged(_places(first, slice(length // 2)), second, w), w)
    between = _merged(_places(odd, slice((length - 1) // 2)), _places(first, slice(1, None)), w)
    return _map(_interleaved, _places(first, slice(1)), between, odd)


def _interleaved(start: Tensor, between: Tensor, odd: Tensor) -> Tensor:
    even, pairs = torch.cat([start, between], -2), odd.shape[-2]
    mixed = torch.stack([even[..., :pairs, :], odd], -2).flatten(-3, -2)
    return torch.cat([mixed, even[..., pairs:, :]], -2)


def _by_loop(terms: Sums, w: Tensor, before: Sums, _: int = 0) -> Sums:
    sums = [before]
    for t in range(terms.p.shape[1]):
        sums.append(_merged(sums[-1], _places(terms, slice(t, t + 1)), w))
    return _map(lambda *steps: torch.cat(steps, 1), *sums[1:])


def _by_scan(terms: Sums, w: Tensor, before: Sums, _: int = 0) -> Sums:
    return _merged(before, _scan(terms, w), w)


def _by_chunks(terms: Sums, w: Tensor, before: Sums, size: int) -> Sums:
    length = terms.p.shape[1]
    size = min(size, length)
    chunks = _map(lambda x: x.unflatten(1, (-1, size)), _padded(terms, -length % size))
    local = _scan(chunks, w)
    ends = _map(lambda x: x[:, :, -1], local)
    carried = _map(lambda b, x: torch.cat([b, x[:, :-1]], 1)[:, :, None], before, _by_loop(ends, w, before))
    return _map(lambda x: x.flatten(1, 2)[:, :length], _merged(carried, local, w))


def _padded(terms: Sums, missing: int) -> Sums:
    """The terms with some of no token after them, at the place of the last."""
    last = _map(lambda x: x[:, -1:].expand(-1, missing, -1), terms)
    return _map(
        lambda x, more: torch.cat([x, more], 1), terms, _kept(last, last.p.new_zeros(1, dtype=torch.bool))
    )


def _places(sums: Sums, which: slice) -> Sums:
    """The sums at some places of the axis of tokens."""
    return _map(lambda x: x[..., which, :], sums)


def _map(function: Callable[..., Tensor], *sums: Sums) -> Sums:
    """`function` of each field, where there is one."""
    fields = zip(*sums, strict=True)
    return Sums(*(None if field[0] is None else function(*field) for field in fields))  # type: ignore[arg-type]


def _require_fit(k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, state: WkvState | None) -> None:
    fits = k.dim() == 3 and k.shape == v.shape and decay.shape == bonus.shape == k.shape[2:]
    if not fits or not (k.is_floating_point() and v.is_floating_point()):
        shapes = ", ".join(str(list(x.shape)) for x in (k, v, decay, bonus))
        raise ShapeError(f"wkv expects floating-point k and v [B, L, C], decay and bonus [C]; got {shapes}")
    if state is not None and any(x.shape != (k.shape[0], k.shape[2]) for x in state):
        shapes = ", ".join(str(list(x.shape)) for x in state)
        raise ShapeError(f"the state of wkv is three tensors {[k.shape[0], k.shape[2]]}, got {shapes}")


Form = Callable[[Sums, Tensor, Sums, int], Sums]
FORMS: Mapping[str, Form] = {"auto": _by_chunks, "loop": _by_loop, "scan": _by_scan, "chunk": _by_chunks}
