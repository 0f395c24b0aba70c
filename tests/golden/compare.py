"""Comparison of tensors with what a fixture holds."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close(
    actual: Tensor, expected: Tensor, *, name: str = "", rtol: float = 1e-6, atol: float = 1e-9
) -> None:
    """|actual - expected| <= atol + rtol*|expected|, in float64. The floor is for gradients that are zero in theory."""
    torch.testing.assert_close(
        actual.detach().double(),
        expected.double(),
        rtol=rtol,
        atol=atol,
        msg=lambda message: f"{name}: {message}",
    )


def assert_equal(actual: Tensor, expected: Tensor, *, name: str = "") -> None:
    """Spikes and integers must be the same."""
    assert_close(actual, expected, name=name, rtol=0.0, atol=0.0)
