"""WindowNorm: what a forecasting network takes away from each window of a series, and puts back on its forecast.

Shapes: B batch, L look-back, S horizon, N variates, Q quantiles.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuromix.core.errors import ShapeError

EPS = 1e-5  # added to the variance


class WindowScale(NamedTuple):
    """Mean and deviation of each variate over the look-back; None where they were left alone."""

    mean_B1N: Tensor | None = None
    deviation_B1N: Tensor | None = None

    def undo(self, y: Tensor) -> Tensor:
        """y * deviation + mean, for a forecast [B, S, N] or [B, S, N, Q]."""
        if self.mean_B1N is None or self.deviation_B1N is None:
            return y
        more = (...,) + (None,) * (y.dim() - 3)
        return y * self.deviation_B1N[more] + self.mean_B1N[more]


class WindowNorm(nn.Module):
    """(x - mean) / sqrt(var + 1e-5), over the L steps of each variate; no gradient goes through the mean.

    Args:
        active: False passes x on as it is.
    """

    def __init__(self, active: bool = True) -> None:
        super().__init__()
        self.active = active

    def forward(self, x_BLN: Tensor) -> tuple[Tensor, WindowScale]:
        """The normalised window, and what undoes it."""
        if not self.active:
            return x_BLN, WindowScale()
        mean_B1N = x_BLN.mean(1, keepdim=True).detach()
        centred_BLN = x_BLN - mean_B1N
        deviation_B1N = torch.sqrt(centred_BLN.var(1, keepdim=True, unbiased=False) + EPS)
        return centred_BLN / deviation_B1N, WindowScale(mean_B1N, deviation_B1N)


def split_quantiles(y_BSN: Tensor, quantiles: int) -> Tensor:
    """[B, S * Q, N] to [B, S, N, Q]; as it is where no quantiles are asked for."""
    return torch.unflatten(y_BSN, 1, (-1, quantiles)).mT if quantiles else y_BSN


def require_series(x: Tensor, look_back: int, name: str = "series", batch: int | None = None) -> None:
    """Raises ShapeError unless x is floating point [B, look_back, N], N >= 1, and B = `batch` where that is given."""
    fits = x.dim() == 3 and x.is_floating_point() and x.shape[1] == look_back and x.shape[2] > 0
    if not fits or (batch is not None and len(x) != batch):
        expected = f"[{'B' if batch is None else batch}, {look_back}, N]"
        raise ShapeError(
            f"expected {name} as a floating-point tensor {expected}, got {x.dtype} {list(x.shape)}"
        )
