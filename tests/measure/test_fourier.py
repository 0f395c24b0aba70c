"""Fourier transforms are counted, and what is made of weights alone is not work of a sample."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuromix.measure import dense_macs, profile


class Filter(nn.Module):
    """A convolution by FFT with a kernel that is a product of weights."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.rand(1, 3)), nn.Parameter(torch.rand(3, length))

    def forward(self, x_BL):
        size = 2 * x_BL.shape[-1]
        spectrum_BF = torch.fft.rfft(x_BL, size) * torch.fft.rfft(self.left @ self.right, size)
        return torch.fft.irfft(spectrum_BF, size)[:, : x_BL.shape[-1]]


@pytest.mark.parametrize("batch", [1, 3])
def test_two_real_transforms_a_sample(batch):
    net, x_BL = Filter(8), torch.randn(batch, 8)
    found = profile(net, x_BL)
    assert found.macs_dense == 2 * 16 * 4 and not found.not_counted
    assert dense_macs(net, x_BL) == batch * found.macs_dense


@pytest.mark.parametrize(
    ("transform", "macs"),
    [
        (torch.fft.rfft, 3 * 8 * 3),
        (torch.fft.fft, 3 * 8 * 3),  # of real numbers
        (lambda x: torch.fft.fft(torch.complex(x, x)), 3 * 2 * 8 * 3),
        (lambda x: torch.fft.rfft2(x.repeat(1, 2).view(3, 4, 4)), 3 * 16 * 4),
        (lambda x: torch.fft.irfft(torch.complex(x, x), 14), 3 * round(14 * 3.807354922)),
    ],
)
def test_n_log_n(transform, macs):
    class Net(nn.Module):
        def forward(self, x):
            return transform(x).abs()

    found = dense_macs(Net(), torch.randn(3, 8))
    assert found == pytest.approx(macs, rel=0.01)
