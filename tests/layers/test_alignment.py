"""Linear CKA: what it is the same under, its formula, and what it needs.

Shapes: T spike time, B batch, D and E features.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from neuromix.core.errors import ShapeError
from neuromix.layers.alignment import centred_gram, linear_cka


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 9), st.integers(1, 12), st.floats(1e-2, 1e2), st.integers(0, 99))
def test_rotation_and_scale_change_nothing(samples, dims, scale, seed):
    x_BD, y_BE = features(samples, dims, seed=seed), features(samples, 7, seed=seed + 1)
    rotation_DD = torch.linalg.qr(features(dims, dims, seed=seed + 2)).Q
    expected = linear_cka(x_BD, y_BE)
    assert -1e-12 <= expected <= 1 + 1e-12
    torch.testing.assert_close(linear_cka(x_BD @ rotation_DD, y_BE), expected, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(linear_cka(scale * x_BD, y_BE), expected, rtol=5e-3, atol=1e-6)
    torch.testing.assert_close(linear_cka(x_BD + 3, y_BE), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(linear_cka(y_BE, x_BD), expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 12), st.integers(1, 30), st.integers(0, 99))
def test_features_are_like_themselves(samples, dims, seed):
    x_BD = features(samples, dims, seed=seed)
    size = torch.linalg.matrix_norm(centred_gram(x_BD)) ** 2
    torch.testing.assert_close(linear_cka(x_BD, x_BD), size / (size + 1e-7))


def test_it_is_the_normalised_biased_hsic():
    x_BD, y_BE = features(6, 4), features(6, 9, seed=1)
    centre_BB = torch.eye(6, dtype=torch.float64) - 1 / 6

    def hsic(a_BD, b_BE):
        return torch.trace(a_BD @ a_BD.T @ centre_BB @ b_BE @ b_BE.T @ centre_BB) / 36

    expected = hsic(x_BD, y_BE) / (hsic(x_BD, x_BD) * hsic(y_BE, y_BE)).sqrt()
    torch.testing.assert_close(linear_cka(x_BD, y_BE), expected, rtol=1e-7, atol=0)


def test_leading_axes_are_apart():
    x_TBD, y_TBE = features(3, 5, 4), features(3, 5, 6, seed=1)
    each = torch.stack([linear_cka(x, y) for x, y in zip(x_TBD, y_TBE, strict=True)])
    torch.testing.assert_close(linear_cka(x_TBD, y_TBE), each)


def test_gradient():
    x_BD, y_BE = features(4, 3).requires_grad_(), features(4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(linear_cka, (x_BD, y_BE))


def test_silent_features_have_alignment_zero_and_finite_gradients():
    x_BD, y_BE = torch.zeros(4, 3, requires_grad=True), torch.rand(4, 5, requires_grad=True)
    cka = linear_cka(x_BD, y_BE)
    cka.backward()
    assert cka == 0 and x_BD.grad.isfinite().all() and y_BE.grad.isfinite().all()
    assert linear_cka(torch.rand(1, 3), torch.rand(1, 3)) == 0  # one sample varies with nothing


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes, in numbers."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.numbers = max(self.numbers, out.numel())
        return out


def test_memory_is_that_of_pairs_of_samples():
    x_BD, y_BE = torch.rand(8, 50_000), torch.rand(8, 40_000)
    with Largest() as largest:
        linear_cka(x_BD, y_BE)
    assert largest.numbers == 8 * 8


@pytest.mark.parametrize(("x", "y"), [((4, 3), (5, 3)), ((3,), (3,)), ((2, 4, 3), (3, 4, 3))])
def test_other_samples_are_refused(x, y):
    with pytest.raises(ShapeError, match="same samples"):
        linear_cka(torch.rand(x), torch.rand(y))
