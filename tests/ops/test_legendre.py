"""The Legendre memory: its matrices, its forms, and that it is the delay line that it is said to be.

Shapes: B batch, L steps, C channels, N order.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.special import eval_sh_legendre

from neuromix.core.errors import ConfigError, NeuromixError, ShapeError
from neuromix.ops.legendre import FORMS, impulse_response, legendre_delay, legendre_memory, legendre_system


def signal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("order", "theta"), [(1, 1.0), (4, 7.0), (16, 128.0), (64, 100.0)])
def test_matrices_are_the_exponential(order, theta):
    A, B = legendre_delay(order, theta)
    whole = np.zeros((order + 1, order + 1))
    whole[:order, :order], whole[:order, order] = A, B
    held = expm(whole)
    ours = legendre_system(order, theta)
    np.testing.assert_allclose(ours.A_NN, held[:order, :order], atol=1e-12)
    np.testing.assert_allclose(ours.B_N, held[:order, order], atol=1e-12)
    powers = [np.linalg.matrix_power(ours.A_NN, k) @ ours.B_N.numpy() for k in range(9)]
    np.testing.assert_allclose(impulse_response(ours, 9), powers, atol=1e-12)


@pytest.mark.parametrize("theta", [40.0, 100.0])
def test_it_is_a_delay_line(theta):
    """Shifted Legendre polynomials read the signal of half a window ago from the memory."""
    order, steps = 14, torch.arange(400, dtype=torch.float64)
    u = sum(torch.sin(2 * torch.pi * f * steps / theta + f) / f for f in (0.4, 0.9, 1.6))
    m_LN = legendre_memory(u[None, :, None], order, theta)[0][0, :, 0]
    read_N = torch.from_numpy(eval_sh_legendre(np.arange(order), 0.5))
    delay = int(theta / 2)
    found, wanted = (m_LN @ read_N)[200:], u[200 - delay : 400 - delay]
    # A sample is held for the step that ends with it, so the point lies between two of them.
    wanted = (wanted + u[201 - delay : 401 - delay]) / 2
    assert (found - wanted).norm() / wanted.norm() < 0.05
    shifted = u[200:]
    assert (found - shifted).norm() / shifted.norm() > 0.5


@pytest.mark.parametrize("length", [16, 100, 784])
def test_fft_is_the_recurrence(length):
    u = signal(2, length, 1)
    loop = legendre_memory(u, 32, 100.0, form="loop")[0]
    for form in ("fft", "chunk", "auto"):
        torch.testing.assert_close(legendre_memory(u, 32, 100.0, form=form)[0], loop, rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(FORMS),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(1, 14),
    st.integers(0, 99),
)
def test_all_forms_with_padding_and_packing(form, chunk, order, batch, length, seed):
    u, state = signal(batch, length, 2, seed=seed), signal(batch, 2, order, seed=seed + 1)
    chance = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, length, generator=chance) > 0.3
    segments = (torch.rand(batch, length, generator=chance) > 0.7).cumsum(1)
    m, last = legendre_memory(
        u, order, 9.0, state, mask_BL=mask, segments_BL=segments, form=form, chunk_size=chunk
    )
    system = legendre_system(order, 9.0)
    for b in range(batch):
        memory, segment = state[b], None
        for t in range(length):
            if mask[b, t]:
                if segment is not None and segments[b, t] != segment:
                    memory = torch.zeros_like(memory)
                segment = segments[b, t]
                memory = memory @ system.A_NN.T + u[b, t, :, None] * system.B_N
                torch.testing.assert_close(m[b, t], memory, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(last[b], memory, rtol=1e-10, atol=1e-10)


def test_gradients():
    u, state = signal(2, 5, 2).requires_grad_(), signal(2, 2, 3).requires_grad_()
    for form in FORMS:
        assert torch.autograd.gradcheck(
            lambda u, s, form=form: legendre_memory(u, 3, 4.0, s, form=form, chunk_size=2), (u, state)
        )


def test_less_than_float32_is_computed_in_float32():
    u = signal(2, 30, 1, dtype=torch.float32).bfloat16()
    for form in FORMS:
        m, last = legendre_memory(u, 8, 10.0, form=form)
        assert m.dtype == torch.bfloat16 and last.dtype == torch.float32
        torch.testing.assert_close(
            last, legendre_memory(u.double(), 8, 10.0)[1].float(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: legendre_delay(0, 3.0), ConfigError, "order 1 or more"),
        (lambda: legendre_delay(2, 0.0), ConfigError, "theta above 0"),
        (lambda: legendre_memory(signal(2, 3), 2, 3.0), ShapeError, r"\[B, L, C\]"),
        (
            lambda: legendre_memory(signal(2, 3, 1), 2, 3.0, signal(2, 1, 3)),
            ShapeError,
            r"expected \[2, 1, 2\]",
        ),
        (lambda: legendre_memory(signal(2, 3, 1), 2, 3.0, form="fast"), NeuromixError, "fft"),
        (lambda: legendre_memory(signal(2, 3, 1), 2, 3.0, chunk_size=0), ShapeError, "chunk"),
        (
            lambda: legendre_memory(signal(2, 3, 1), 2, 3.0, mask_BL=torch.ones(2, 4, dtype=torch.bool)),
            ShapeError,
            "mask",
        ),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
