"""What the scan is measured against gives the same numbers."""

from __future__ import annotations

import torch

from neuromix.bench.scan import reference_scan
from neuromix.ops.selective_scan import selective_scan


def test_the_reference_is_the_scan():
    x, delta = torch.randn(2, 9, 6, dtype=torch.float64), torch.rand(2, 9, 6, dtype=torch.float64)
    A, B, C = -torch.rand(6, 4, dtype=torch.float64), *torch.randn(2, 2, 9, 4, dtype=torch.float64)
    torch.testing.assert_close(reference_scan(x, delta, A, B, C), selective_scan(x, delta, A, B, C)[0])
