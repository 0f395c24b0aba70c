"""Causal convolutions with kernels as long as the sequence, and the diagonal state spaces that have such kernels.

    x_t = A x_{t-1} + B u_t        y_t = 2 Re(C . x_t)        kernel[l] = 2 Re sum_n C_n B_n A_n^l

for each channel, A diagonal with |A| < 1, of which one of each conjugate pair is kept. A whole sequence is one
convolution by FFT (`fft_conv`); a sequence beyond what one FFT should take goes in chunks that hand on x
(`long_conv`), which gives the same numbers. `log_A` is given instead of A, since what is needed are powers.

Shapes: B batch, D channels, L tokens, J taps of a kernel, N complex states of a channel. u may have more axes before D.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def fft_conv(u_BDL: Tensor, kernel_DJ: Tensor) -> Tensor:
    """y_t = sum over j <= t of kernel[j] * u[t-j], exact: the transform is long enough that nothing wraps around.

    Args:
        u_BDL: floating point [..., D, L]; computed in float32 or wider.
        kernel_DJ: [D, J], or with more axes that go with those of u.

    Returns:
        y [..., D, L] in the dtype of u.
    """
    if u_BDL.shape[-1] == 0:
        return u_BDL
    if u_BDL.numel() == 0:
        return direct_conv(u_BDL, kernel_DJ)  # no library transforms nothing
    length = u_BDL.shape[-1]
    size = _good_size(length + kernel_DJ.shape[-1] - 1)
    spectrum = torch.fft.rfft(_wide(u_BDL), n=size) * torch.fft.rfft(_wide(kernel_DJ), n=size)
    y_BDL: Tensor = torch.fft.irfft(spectrum, n=size)[..., :length].to(u_BDL.dtype)
    return y_BDL


def direct_conv(u_BDL: Tensor, kernel_DJ: Tensor) -> Tensor:
    """What `fft_conv` computes, tap by tap: the reference. The kernel has the two axes [D, J]."""
    if u_BDL.shape[-1] == 0:
        return u_BDL
    rows = _wide(u_BDL).reshape(-1, *u_BDL.shape[-2:])
    padded = F.pad(rows, (kernel_DJ.shape[-1] - 1, 0))
    y = F.conv1d(padded, kernel_DJ.to(rows.dtype).flip(-1)[:, None], groups=kernel_DJ.shape[0])
    return y.reshape(u_BDL.shape).to(u_BDL.dtype)


def diagonal_kernel(log_A_DN: Tensor, weight_DN: Tensor, length: int, *, first: int = 0) -> Tensor:
    """2 Re sum_n weight_n A_n^(first + l) for l < length: [..., D, length], real.

    The powers are products of two tables of sqrt(length) each, so that no [D, N, length] is ever held.

    Args:
        log_A_DN: complex128 [D, N].
        weight_DN: complex [..., D, N]; its precision is that of the result.
    """
    fine = math.isqrt(max(length - 1, 0)) + 1
    coarse = -(-length // fine)
    blocks_DPN = _powers(log_A_DN, torch.arange(coarse) * fine + first, weight_DN.dtype)
    within_DQN = _powers(log_A_DN, torch.arange(fine), weight_DN.dtype)
    left = torch.view_as_real(2 * weight_DN[..., None, :] * blocks_DPN).flatten(-2)
    right = torch.view_as_real(within_DQN.conj().resolve_conj()).flatten(-2)  # Re(ab) = Re a Re b - Im a Im b
    return (left @ right.mT).flatten(-2)[..., :length]


def diagonal_state(
    u_BDL: Tensor,
    log_A_DN: Tensor,
    B_DN: Tensor,
    state_BDN: Tensor | None = None,
    lengths_B: Tensor | None = None,
) -> Tensor:
    """x after the last token, from the one before the first (None: zero): complex [..., D, N].

    Args:
        lengths_B: int64, with the axes of u before D: how many tokens at the front are real. None: all L.
    """
    length, dtype = u_BDL.shape[-1], complex_dtype(u_BDL)
    count = torch.tensor(length, device=u_BDL.device) if lengths_B is None else lengths_B
    fine = math.isqrt(max(length - 1, 0)) + 1
    coarse = -(-length // fine)
    # The last token first, so that u at place l has gone through l steps.
    place_BL = count[..., None] - 1 - torch.arange(coarse * fine, device=u_BDL.device)
    index = place_BL.clamp(min=0)[..., None, :].expand(*u_BDL.shape[:-1], -1)
    recent = _wide(u_BDL).gather(-1, index) * (place_BL >= 0)[..., None, :]
    within_DQN = torch.view_as_real(_powers(log_A_DN, torch.arange(fine), dtype)).flatten(-2)
    sums = recent.reshape(*recent.shape[:-1], coarse, fine) @ within_DQN
    blocks_DPN = _powers(log_A_DN, torch.arange(coarse) * fine, dtype)
    pairs = sums.reshape(*sums.shape[:-1], B_DN.shape[-1], 2)
    after_BDN: Tensor = B_DN.to(dtype) * (torch.view_as_complex(pairs) * blocks_DPN).sum(-2)
    if state_BDN is None:
        return after_BDN
    return torch.exp(count[..., None, None] * log_A_DN).to(dtype) * state_BDN + after_BDN


def left_over(log_A_DN: Tensor, C_DN: Tensor, state_BDN: Tensor, length: int) -> Tensor:
    """What a state still gives at the next `length` tokens, 2 Re(C . A^(l+1) x): [..., D, length]."""
    return diagonal_kernel(log_A_DN, C_DN.to(state_BDN.dtype) * state_BDN, length, first=1)


def long_conv(
    u_BDL: Tensor,
    log_A_DN: Tensor,
    B_DN: Tensor,
    C_DN: Tensor,
    state_BDN: Tensor | None = None,
    *,
    chunk_size: int | None = None,
    direct: bool = False,
    lengths_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A diagonal state space over a sequence, by convolutions of `chunk_size` tokens between which the state is passed.

    Args:
        u_BDL: floating point [..., D, L].
        log_A_DN, B_DN, C_DN: complex128 [D, N].
        state_BDN: complex [..., D, N], x before the first token; None: zero.
        chunk_size: None: the whole sequence at once.
        direct: tap by tap instead of by FFT.
        lengths_B: int64, with the axes of u before D: how many tokens at the front are real, for the state.

    Returns:
        (y [..., D, L] in the dtype of u, state after the last real token).
    """
    length = u_BDL.shape[-1]
    size = length if chunk_size is None else chunk_size
    if length == 0:
        zeros = u_BDL.new_zeros(*u_BDL.shape[:-1], B_DN.shape[-1], dtype=complex_dtype(u_BDL))
        return u_BDL, zeros if state_BDN is None else state_BDN
    weight_DN = (B_DN * C_DN).to(complex_dtype(u_BDL))
    kernel_DJ = diagonal_kernel(log_A_DN, weight_DN, min(size, length))
    conv = direct_conv if direct else fft_conv
    y_BDL = torch.empty_like(u_BDL)  # filled piece by piece: to join pieces would hold all twice
    for start in range(0, length, size):
        piece = u_BDL[..., start : start + size]
        here = (..., slice(start, start + size))
        y_BDL[here] = conv(piece, kernel_DJ[:, : piece.shape[-1]])
        if state_BDN is not None:
            y_BDL[here] += left_over(log_A_DN, C_DN, state_BDN, piece.shape[-1])
        left_B = None if lengths_B is None else (lengths_B - start).clamp(0, piece.shape[-1])
        state_BDN = diagonal_state(piece, log_A_DN, B_DN, state_BDN, left_B)
    assert state_BDN is not None
    return y_BDL, state_BDN


def long_conv_step(
    u_BD: Tensor, log_A_DN: Tensor, B_DN: Tensor, C_DN: Tensor, state_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: u [..., D] to (y [..., D], state)."""
    A_DN = log_A_DN.exp().to(state_BDN.dtype)
    state_BDN = A_DN * state_BDN + B_DN.to(state_BDN.dtype) * u_BD[..., None]
    return 2 * (C_DN.to(state_BDN.dtype) * state_BDN).sum(-1).real.to(u_BD.dtype), state_BDN


def _powers(log_A_DN: Tensor, exponents_P: Tensor, dtype: torch.dtype) -> Tensor:
    """A^p [D, P, N]; the exponent is in double precision, as the phase of a high power takes many digits."""
    return torch.exp(exponents_P.to(log_A_DN.device)[:, None] * log_A_DN[:, None, :]).to(dtype)


def complex_dtype(u: Tensor) -> torch.dtype:
    """Of the states of real numbers `u`: complex64 at least."""
    return torch.complex128 if u.dtype == torch.float64 else torch.complex64


def _good_size(least: int) -> int:
    """The next m * 2^k with 8 <= m < 16, at most an eighth more: sizes with large prime factors are slow."""
    unit = 1 << max(0, least.bit_length() - 4)
    return -(-least // unit) * unit


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
