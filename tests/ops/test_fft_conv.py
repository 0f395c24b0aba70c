"""Long convolutions: FFT = tap by tap = in chunks = step by step, and what chunks save."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.measure.memory import peak_memory
from neuromix.ops.fft_conv import (
    diagonal_kernel,
    diagonal_state,
    direct_conv,
    fft_conv,
    long_conv,
    long_conv_step,
)

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def system(channels: int, size: int) -> tuple[torch.Tensor, ...]:
    real, imag = normal(channels, size, seed=1).abs(), 2 * normal(channels, size, seed=2)
    return (
        torch.complex(-0.3 * real, imag),
        normal(channels, size, seed=3, dtype=torch.complex128),
        normal(channels, size, seed=4, dtype=torch.complex128),
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(0, 2))
def test_fft_is_tap_by_tap(length, taps, channels, batch):
    u, kernel = normal(batch, 2, channels, length), normal(channels, taps, seed=1)
    y = fft_conv(u, kernel)
    torch.testing.assert_close(y, direct_conv(u, kernel), **CLOSE)
    plain = [
        sum((kernel[:, j] * u[..., t - j] for j in range(min(t + 1, taps))), torch.zeros(()))
        for t in range(length)
    ]
    torch.testing.assert_close(y, torch.stack(plain, -1), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_input_is_computed_in_float32(dtype):
    u, kernel = normal(2, 3, 50), normal(3, 50, seed=1)
    y = fft_conv(u.to(dtype), kernel.float())
    assert y.dtype == dtype
    expected = direct_conv(u.to(dtype).double(), kernel)
    assert (y.double() - expected).norm() < 4 * torch.finfo(dtype).eps * expected.norm()


def test_no_token():
    assert fft_conv(torch.zeros(2, 3, 0), torch.ones(3, 4)).shape == (2, 3, 0)
    state = normal(2, 3, 4, dtype=torch.complex128)
    y, after = long_conv(torch.zeros(2, 3, 0).double(), *system(3, 4), state)
    assert y.shape == (2, 3, 0) and torch.equal(after, state)


def test_not_contiguous():
    u, kernel = normal(7, 2, 3).movedim(0, 2), normal(9, 3, seed=1).mT
    torch.testing.assert_close(fft_conv(u, kernel), direct_conv(u.contiguous(), kernel.contiguous()), **CLOSE)


def test_gradients():
    u, kernel = normal(1, 2, 5).requires_grad_(), normal(2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(fft_conv, (u, kernel))
    leaves = (normal(1, 2, 5), *system(2, 2), normal(1, 2, 2, dtype=torch.complex128))
    leaves = tuple(leaf.requires_grad_() for leaf in leaves)

    def chunks(u, log_A, B, C, state):
        y, last = long_conv(u, log_A, B, C, state, chunk_size=2)
        return y, torch.view_as_real(last)

    assert torch.autograd.gradcheck(chunks, leaves)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1, 5, 8, 23])
def test_chunks_are_the_steps(chunk_size, direct):
    u, state = normal(2, 3, 23), normal(2, 3, 4, seed=5, dtype=torch.complex128)
    matrices = system(3, 4)
    outputs, last = [], state
    for u_BD in u.unbind(-1):
        y_BD, last = long_conv_step(u_BD, *matrices, last)
        outputs.append(y_BD)
    y, after = long_conv(u, *matrices, state, chunk_size=chunk_size, direct=direct)
    torch.testing.assert_close(y, torch.stack(outputs, -1), **CLOSE)
    torch.testing.assert_close(after, last, **CLOSE)


def test_kernel_is_the_response_to_one_input():
    log_A, B, C = system(3, 4)
    powers = torch.exp(log_A[..., None] * torch.arange(30))
    expected = 2 * (B * C)[..., None].mul(powers).sum(1).real
    torch.testing.assert_close(diagonal_kernel(log_A, B * C, 30), expected, **CLOSE)
    torch.testing.assert_close(diagonal_kernel(log_A, B * C, 20, first=10), expected[:, 10:], **CLOSE)


def test_state_after_the_real_tokens():
    u, state = normal(3, 2, 9), normal(3, 2, 4, seed=5, dtype=torch.complex128)
    matrices = system(2, 4)
    lengths = torch.tensor([0, 4, 9])
    for chunk_size in (None, 2):
        _, after = long_conv(u, *matrices, state, chunk_size=chunk_size, lengths_B=lengths)
        for b, n in enumerate(lengths):
            alone = diagonal_state(u[b : b + 1, :, :n], *matrices[:2], state[b : b + 1])
            torch.testing.assert_close(after[b : b + 1], alone, **CLOSE)


def test_chunks_of_2k_of_16k_tokens():
    """The same numbers in float32, in less than 40 % of the memory."""
    length, (log_A, B, C) = 16384, system(2, 16)
    log_A = torch.complex(log_A.real * 0.01, log_A.imag * 0.1)
    B, C = B.to(torch.complex64), C.to(torch.complex64)
    u = normal(2, 2, length, dtype=torch.float32)

    def one_transform():
        return fft_conv(u, diagonal_kernel(log_A, B * C, length))

    def chunks():
        return long_conv(u, log_A, B, C, chunk_size=2048)[0]

    with torch.no_grad():
        whole, pieces = one_transform(), chunks()
        assert (whole - pieces).abs().max() <= 1e-5 * whole.abs().max()
        assert peak_memory(chunks) < 0.4 * peak_memory(one_transform)
