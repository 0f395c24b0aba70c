"""The associative scan: equal to the loop, forward, backward and twice backward, of any length, axis and dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ShapeError
from neuromix.ops.associative_scan import associative_scan


def by_loop(a, b, dim):
    x, states = torch.zeros_like(b.select(dim, 0)), []
    for a_t, b_t in zip(a.unbind(dim), b.unbind(dim), strict=True):
        x = a_t * x + b_t
        states.append(x)
    return torch.stack(states, dim)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 2),
    st.sampled_from([torch.float64, torch.complex128]),
    st.integers(0, 99),
)
def test_equals_the_loop(length, dim, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = [2, 3, 2]
    shape[dim] = length
    a, b = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(2))
    torch.testing.assert_close(associative_scan(a, b, dim), by_loop(a, b, dim))
    torch.testing.assert_close(associative_scan(a, b, dim - 3), by_loop(a, b, dim))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_gradients(length, dtype):
    torch.manual_seed(0)
    a, b = (torch.randn(2, length, 2, dtype=dtype, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: associative_scan(a, b, 1), (a, b), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda a, b: associative_scan(a, b, 1), (a, b))


def test_broadcasts_and_takes_no_steps():
    a, b = torch.rand(5, 1), torch.randn(2, 5, 3)
    torch.testing.assert_close(associative_scan(a, b, 1), by_loop(a.expand(2, 5, 3), b, 1))
    assert associative_scan(torch.zeros(2, 0), torch.zeros(2, 0), 1).shape == (2, 0)


def test_zero_starts_anew_whatever_came_before():
    a, b = torch.tensor([1e30, 1e30, 0.0, 0.5]), torch.ones(4)
    assert associative_scan(a, b, 0)[2:].tolist() == [1.0, 1.5]


def test_what_does_not_fit():
    with pytest.raises(ShapeError, match="broadcast"):
        associative_scan(torch.zeros(2, 3), torch.zeros(2, 4), 1)
    with pytest.raises(ShapeError, match="axis 2"):
        associative_scan(torch.zeros(2, 3), torch.zeros(2, 3), 2)
