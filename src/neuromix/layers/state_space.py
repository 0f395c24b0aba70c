"""The two state spaces of H3: one that remembers the last inputs, and one that sums them with complex decays.

Both take a sequence as a convolution, from a state, `advance` that state over the sequence, and step by one token.

Shapes: B batch, D channels, L tokens, N size of a state; u may have more axes before D, as `lengths` then has.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.layers.time_step import wide
from neuromix.ops.fft_conv import (
    complex_dtype,
    diagonal_kernel,
    diagonal_state,
    direct_conv,
    fft_conv,
    left_over,
    long_conv_step,
)


class ShiftSSM(nn.Module):
    """s_t = shift(s_{t-1}) + B u_t, y_t = C . s_t, where `shift` moves every number to the next place.

    With B = (1, 0, 0, ...), where it starts, s are the last N inputs, the newest first, and C their weights.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.B = nn.Parameter(F.pad(torch.ones(channels, 1), (0, size - 1)))
        self.C = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(channels, 1, size), math.sqrt(5))[:, 0])

    def kernel(self, length: int) -> Tensor:
        """The response to one input: sum_m B[m] C[m+l] for l < min(N, length), after which it is zero."""
        return _correlate(wide(self.B), wide(self.C))[..., :length]

    def forward(self, u_BDL: Tensor, state_BDN: Tensor | None = None, *, direct: bool = False) -> Tensor:
        """y [..., D, L], from a state (None: zero)."""
        length = u_BDL.shape[-1]
        y_BDL = (direct_conv if direct else fft_conv)(u_BDL, self.kernel(length))
        if state_BDN is None:
            return y_BDL
        before_BDL = _correlate(state_BDN, wide(self.C))[..., 1 : length + 1]
        return y_BDL + F.pad(before_BDL, (0, length - before_BDL.shape[-1])).to(y_BDL.dtype)

    def advance(
        self, u_BDL: Tensor, state_BDN: Tensor | None = None, lengths_B: Tensor | None = None
    ) -> Tensor:
        """The state after the first `lengths` tokens (None: all) [..., D, N]."""
        count = torch.tensor(u_BDL.shape[-1], device=u_BDL.device) if lengths_B is None else lengths_B
        place_N = torch.arange(self.size, device=u_BDL.device)
        after_BDN = _convolve(_gather(wide(u_BDL), count[..., None] - 1 - place_N), wide(self.B))
        if state_BDN is None:
            return after_BDN
        return _gather(state_BDN, place_N - count[..., None]) + after_BDN

    def step(self, u_BD: Tensor, state_BDN: Tensor) -> tuple[Tensor, Tensor]:
        """One token."""
        state_BDN = F.pad(state_BDN[..., :-1], (1, 0)) + wide(self.B) * u_BD[..., None]
        return (wide(self.C) * state_BDN).sum(-1).to(u_BD.dtype), state_BDN


class Discrete(NamedTuple):
    """x_t = A x_{t-1} + B u_t, y_t = 2 Re(C . x_t), A diagonal: complex128 [D, N] each."""

    log_A: Tensor
    B: Tensor
    C: Tensor


class DiagonalSSM(nn.Module):
    """x' = A x + B u, y = 2 Re(C x), in steps of dt, with N complex numbers a channel (S4D).

    A = -exp(inv_A_real) + i A_imag, and dt = exp(log_dt). From step to step, "bilinear" takes
    A -> (1 + dt A/2) / (1 - dt A/2), B -> dt B / (1 - dt A/2), and "zoh" A -> exp(dt A), B -> B (exp(dt A) - 1) / A.
    It starts with A = -1/2 + i pi n, B = 1, a complex normal C, and dt log-uniform in [dt_min, dt_max].

    Args:
        channels: D.
        size: N, complex numbers of a channel; each stands for itself and its conjugate.
        copies: A and B of their own; channel d has those of d modulo `copies`.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        copies: int | None = None,
        discretisation: Literal["bilinear", "zoh"] = "bilinear",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        self.size, self.discretisation = size, discretisation
        copies = channels if copies is None else copies
        self.repeats = channels // copies
        low, high = math.log(dt_min), math.log(dt_max)
        self.log_dt = nn.Parameter(torch.rand(channels) * (high - low) + low)
        self.inv_A_real = nn.Parameter(torch.full((copies, size), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(float(size)).repeat(copies, 1))
        self.B = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(copies, size, 1))
        self.C = nn.Parameter(torch.randn(channels, size, 2) / math.sqrt(2))

    def discrete(self) -> Discrete:
        """The system from step to step, in double precision: its powers are taken by the ten thousand."""
        dt_D1 = self.log_dt.double().exp()[:, None]
        A_DN = torch.complex(-self.inv_A_real.double().exp(), self.A_imag.double()).repeat(self.repeats, 1)
        B_DN = torch.view_as_complex(self.B.double()).repeat(self.repeats, 1)
        C_DN = torch.view_as_complex(self.C.double())
        z_DN = dt_D1 * A_DN
        if self.discretisation == "zoh":
            return Discrete(z_DN, B_DN * torch.expm1(z_DN) / A_DN, C_DN)
        return Discrete(torch.log((1 + z_DN / 2) / (1 - z_DN / 2)), dt_D1 * B_DN / (1 - z_DN / 2), C_DN)

    def kernel(self, length: int) -> Tensor:
        """The response to one input: [D, length], in float32 or the dtype of the weights."""
        system = self.discrete()
        return diagonal_kernel(system.log_A, (system.B * system.C).to(complex_dtype(self.log_dt)), length)

    def forward(
        self,
        u_BDL: Tensor,
        state_BDN: Tensor | None = None,
        *,
        system: Discrete | None = None,
        kernel_DJ: Tensor | None = None,
        direct: bool = False,
    ) -> Tensor:
        """y [..., D, L], from a state (None: zero).

        Args:
            state_BDN: complex.
            system, kernel_DJ: of `discrete` and `kernel`, of L or more taps, where they are at hand.
        """
        length, system = u_BDL.shape[-1], system or self.discrete()
        kernel_DJ = self.kernel(length) if kernel_DJ is None else kernel_DJ[:, :length]
        y_BDL = (direct_conv if direct else fft_conv)(u_BDL, kernel_DJ)
        if state_BDN is None:
            return y_BDL
        return y_BDL + left_over(system.log_A, system.C, state_BDN, length).to(y_BDL.dtype)

    def advance(
        self,
        u_BDL: Tensor,
        state_BDN: Tensor | None = None,
        lengths_B: Tensor | None = None,
        *,
        system: Discrete | None = None,
    ) -> Tensor:
        """The state after the first `lengths` tokens (None: all): complex [..., D, N]."""
        log_A_DN, B_DN, _ = system or self.discrete()
        return diagonal_state(u_BDL, log_A_DN, B_DN, state_BDN, lengths_B)

    def step(self, u_BD: Tensor, state_BDN: Tensor) -> tuple[Tensor, Tensor]:
        """One token."""
        return long_conv_step(u_BD, *self.discrete(), state_BDN)


def _convolve(x_DN: Tensor, y_DN: Tensor) -> Tensor:
    """sum over i <= m of x[m-i] y[i], for m < N."""
    return fft_conv(x_DN, y_DN)


def _correlate(x_DN: Tensor, y_DN: Tensor) -> Tensor:
    """sum over m of x[m] y[m+l], for l < N."""
    return _convolve(x_DN, y_DN.flip(-1)).flip(-1)


def _gather(x_BDL: Tensor, place_BN: Tensor) -> Tensor:
    """x at these places of its last axis, zero outside."""
    last = x_BDL.shape[-1] - 1
    if last < 0:
        return x_BDL.new_zeros(*x_BDL.shape[:-1], place_BN.shape[-1])
    index = place_BN.clamp(0, last)[..., None, :].expand(*x_BDL.shape[:-1], -1)
    inside_BN = (place_BN >= 0) & (place_BN <= last)
    return x_BDL.gather(-1, index) * inside_BN[..., None, :]
