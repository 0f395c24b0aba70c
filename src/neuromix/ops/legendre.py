"""The Legendre memory: the last theta steps of a signal, as coefficients of shifted Legendre polynomials.

m[t] = A m[t-1] + B u[t] with the fixed matrices of `legendre_system` (Voelker, Kajic & Eliasmith, NeurIPS 2019). It is
one linear filter of known impulse response A^k B, so that a whole sequence can go through an FFT.

Shapes: B batch, L steps, C channels, each with a memory of its own, N order of the memory.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from neuromix.core.errors import ConfigError, ShapeError
from neuromix.ops._layout import arithmetic_dtype
from neuromix.ops._tokens import check_chunk_size, check_form, check_tokens
from neuromix.ops.constants import keep_constant
from neuromix.ops.runs import Runs

Form: TypeAlias = Literal["auto", "loop", "fft", "chunk"]
FORMS: tuple[Form, ...] = ("auto", "loop", "fft", "chunk")


class LegendreSystem(NamedTuple):
    """A_NN and B_N of the memory."""

    A_NN: Tensor
    B_N: Tensor


def legendre_delay(order: int, theta: float) -> LegendreSystem:
    """The memory in continuous time, dm/dt = A m + B u: float64, on the CPU.

    A[i, j] = (2i+1)/theta * (-1 if i < j else (-1)^(i-j+1)), B[i] = (2i+1)/theta * (-1)^i.

    Args:
        order: N.
        theta: length of the window, in steps.
    """
    if order < 1 or not theta > 0:
        raise ConfigError(
            f"a Legendre memory needs order 1 or more and theta above 0; given {order}, {theta}"
        )
    i_N = torch.arange(order, dtype=torch.float64, device="cpu")
    sign_N = 1 - 2 * (i_N % 2)
    scale_N = (2 * i_N + 1) / theta
    below = -sign_N[:, None] * sign_N  # (-1)^(i-j+1)
    A_NN = torch.where(i_N[:, None] < i_N, -torch.ones_like(below), below) * scale_N[:, None]
    return LegendreSystem(A_NN, scale_N * sign_N)


def zero_order_hold(continuous: LegendreSystem, dt: float = 1.0) -> LegendreSystem:
    """The same system from step to step, its input held for dt: [[A, B], [0, 1]] = expm(dt [[A, B], [0, 0]])."""
    order = len(continuous.B_N)
    both = F.pad(torch.cat([continuous.A_NN, continuous.B_N[:, None]], 1), (0, 0, 0, 1))
    held = torch.linalg.matrix_exp(dt * both)
    return LegendreSystem(held[:order, :order].contiguous(), held[:order, order].contiguous())


@functools.lru_cache(maxsize=32)
def legendre_system(order: int, theta: float) -> LegendreSystem:
    """The memory of a window of `theta` steps, from step to step: float64, on the CPU; not to be written to."""
    return zero_order_hold(legendre_delay(order, theta))


def impulse_response(system: LegendreSystem, length: int) -> Tensor:
    """What a single 1 leaves in the memory: A^k B for k = 0 .. length-1, [L, N]."""
    return _doubled(system.B_N[None], system.A_NN, length)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _known_spectrum(
    order: int, theta: float, length: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`_made_spectrum`, which a compiler does not look into: it would look through the cache."""
    return _made_spectrum(order, theta, length, dtype, device)


@functools.lru_cache(maxsize=8)
def _made_spectrum(order: int, theta: float, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The spectrum of `impulse_response`, which is taken in float64 and rounded once: powers of A drift in float32.

    A constant, so whoever counts what a model computes does not see it being made.
    """
    with _disable_current_modes():
        response_LN = impulse_response(legendre_system(order, theta), length).to(device, dtype)
        return keep_constant(torch.fft.rfft(response_LN, 2 * length, dim=0))


def legendre_step(u_BC: Tensor, system: LegendreSystem, state_BCN: Tensor) -> Tensor:
    """m[t] = A m[t-1] + B u[t]: [B, C, N]."""
    return state_BCN @ system.A_NN.mT + u_BC[..., None] * system.B_N


def legendre_memory(
    u_BLC: Tensor,
    order: int,
    theta: float,
    state_BCN: Tensor | None = None,
    *,
    system: LegendreSystem | None = None,
    mask_BL: Tensor | None = None,
    segments_BL: Tensor | None = None,
    form: Form = "auto",
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """The memory after each step of a sequence.

    Args:
        u_BLC: input, floating point; computed in no less than float32.
        order, theta: N, and the window in steps.
        state_BCN: the memory before the first step; None: 0. It belongs to the first segment of its row.
        system: of `legendre_system`, on the device of the input, where that is at hand.
        mask_BL: bool, True at a real step; another one leaves the memory as it is.
        segments_BL: int64; a new number starts from an empty memory.
        form: "loop" goes step by step; "fft" is one product of spectra; "chunk" steps through all pieces of
            `chunk_size` side by side; "auto" is "fft". All give the same numbers.

    Returns:
        m [B, L, C, N] in the dtype of the input, and the memory after the last step, [B, C, N].

    Raises:
        ShapeError: the input, state, mask, segments or chunk size do not fit.
        UnknownNameError: no such form.
    """
    _check(u_BLC, order, state_BCN)
    check_form(form, FORMS)
    check_chunk_size(chunk_size)
    check_tokens(u_BLC.shape[0], u_BLC.shape[1], mask_BL, segments_BL)
    u = u_BLC.to(arithmetic_dtype(u_BLC.dtype))
    exact = legendre_system(order, theta)
    if system is None:
        system = LegendreSystem(*(matrix.to(u) for matrix in exact))
    start = u.new_zeros(len(u), u.shape[2], order) if state_BCN is None else state_BCN.to(u)
    if not u.numel():
        return u_BLC.new_zeros(*u.shape, order), start
    if mask_BL is not None or segments_BL is not None:
        runs = Runs.of(u.shape[:2], mask_BL, segments_BL)
        start_RCN, x_RLC = runs.enter(start), runs.split(u)
        m, _ = legendre_memory(
            x_RLC, order, theta, start_RCN, system=system, form=form, chunk_size=chunk_size
        )
        # A row that is all padding ends as it began.
        all_RL = torch.cat([start_RCN[:, None], m], 1)
        last = all_RL[torch.arange(len(all_RL), device=u.device), runs.lengths_R]
        return runs.join(m).to(u_BLC.dtype), runs.leave(last)
    if form == "loop":
        m = _loop(u, system, start)
    elif form == "chunk":
        m = _chunks(u, system, start, chunk_size)
    else:
        m = _fft(u, _known_spectrum(order, theta, u.shape[1], u.dtype, u.device))
        if state_BCN is not None:
            m = m + _left_over(start, exact, u.shape[1])
    return m.to(u_BLC.dtype), m[:, -1]


def _loop(u_BLC: Tensor, system: LegendreSystem, m_BCN: Tensor) -> Tensor:
    steps = []
    for u_BC in u_BLC.unbind(1):
        m_BCN = legendre_step(u_BC, system, m_BCN)
        steps.append(m_BCN)
    return torch.stack(steps, 1)


def _fft(u_BLC: Tensor, response_FN: Tensor) -> Tensor:
    """From an empty memory: the spectra of input and response, padded so that the end does not wrap around."""
    batch, length, channels = u_BLC.shape
    u_FBC = torch.fft.rfft(u_BLC, 2 * length, dim=1).transpose(0, 1)
    m_FEN = u_FBC.flatten(1)[..., None] @ response_FN[:, None]  # E = B * C
    m_LEN: Tensor = torch.fft.irfft(m_FEN, 2 * length, dim=0)[:length]
    return m_LEN.transpose(0, 1).reshape(batch, channels, length, -1).transpose(1, 2)


def _left_over(state_BCN: Tensor, exact: LegendreSystem, length: int) -> Tensor:
    """What is left of a memory after 1, 2, ... steps without input: A^k m, [B, L, C, N]; the powers in float64."""
    A_NN = exact.A_NN.to(state_BCN.device)
    first = state_BCN.double() @ A_NN.mT
    return _doubled(first[..., None, :], A_NN, length).movedim(-2, 1).to(state_BCN)


def _doubled(first: Tensor, A_NN: Tensor, length: int) -> Tensor:
    """A^k x for k = 0 .. length-1 from x [..., 1, N]: twice as many each time, [..., L, N]."""
    rows, power = first, A_NN
    while rows.shape[-2] < length:
        rows, power = torch.cat([rows, rows @ power.mT], -2), power @ power
    return rows[..., :length, :]


def _chunks(u_BLC: Tensor, system: LegendreSystem, state_BCN: Tensor, size: int) -> Tensor:
    """What each piece adds to the memory, then the memory before each piece, then all pieces step by step at once."""
    length, pieces = u_BLC.shape[1], -(-u_BLC.shape[1] // size)
    u_BPQC = F.pad(u_BLC, (0, 0, 0, pieces * size - length)).reshape(len(u_BLC), pieces, size, -1)
    response_QN = _doubled(system.B_N[None], system.A_NN, size)
    added_BPCN = torch.einsum("bpqc,qn->bpcn", u_BPQC.flip(2), response_QN)
    over_a_piece_NN = torch.linalg.matrix_power(system.A_NN, size).mT
    before = [state_BCN]
    for p in range(pieces - 1):
        before.append(before[-1] @ over_a_piece_NN + added_BPCN[:, p])
    m = _loop(u_BPQC.flatten(0, 1), system, torch.stack(before, 1).flatten(0, 1))
    return m.reshape(len(u_BLC), pieces * size, *m.shape[2:])[:, :length]


def _check(u_BLC: Tensor, order: int, state_BCN: Tensor | None) -> None:
    if u_BLC.dim() != 3 or not u_BLC.is_floating_point():
        raise ShapeError(f"expected a floating-point input [B, L, C], got {u_BLC.dtype} {list(u_BLC.shape)}")
    wanted = [len(u_BLC), u_BLC.shape[2], order]
    if state_BCN is not None and list(state_BCN.shape) != wanted:
        raise ShapeError(f"the state of the memory is {list(state_BCN.shape)}; expected {wanted}")
