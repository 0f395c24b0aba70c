"""The fused selective scan is counted, alone and within a mixer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuromix.measure import profile
from neuromix.ops._native import native
from neuromix.ops.selective_scan import selective_scan

pytestmark = pytest.mark.skipif(native is None, reason="the C++ extension is not installed")


class Scanner(nn.Module):
    """Selects its own B and C by one linear layer."""

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.select = nn.Linear(channels, 2 * states, bias=False)
        self.A_log = nn.Parameter(torch.rand(channels, states))

    def forward(self, x_BLD):
        B_BLN, C_BLN = self.select(x_BLD).chunk(2, -1)
        return selective_scan(x_BLD, torch.ones_like(x_BLD), -self.A_log.exp(), B_BLN, C_BLN)[0]


def test_a_scan_is_four_multiply_adds_for_each_state_of_each_step():
    B, L, D, N = 2, 7, 6, 3
    found = profile(Scanner(D, N), torch.randn(B, L, D))
    assert found.macs_dense == L * D * 2 * N + 4 * L * D * N  # of one sample
    assert not found.not_counted
