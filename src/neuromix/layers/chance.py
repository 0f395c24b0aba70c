"""Dropout and stochastic depth, drawing through Noise so that they can be seeded and replayed."""

from __future__ import annotations

from torch import Tensor, nn

from neuromix.core.observe import Noise


class Dropout(nn.Module):
    """In training sets each element to zero with probability `rate` and divides the rest by 1 - rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.noise = Noise()

    def forward(self, x: Tensor) -> Tensor:
        return self._masked(x, tuple(x.shape)) if self.training and self.rate > 0 else x

    def _masked(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        keep = 1 - self.rate
        return x * (self.noise.uniform(shape, x) < keep) / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class DropPath(Dropout):
    """Stochastic depth: drops the whole branch of a sample, one draw a sample.

    Args:
        rate: probability in [0, 1) that the branch of a sample is dropped.
        batch_axis: 0 for [B, ...], 1 for [T, B, ...], where all steps of a sample share the draw.
    """

    def __init__(self, rate: float, batch_axis: int = 0) -> None:
        super().__init__(rate)
        self.batch_axis = batch_axis

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        shape = [1] * x.dim()
        shape[self.batch_axis] = x.shape[self.batch_axis]
        return self._masked(x, tuple(shape))
