"""RateCoder: numbers in [0, 1] as spike trains whose rates are these numbers.

Shapes: T spike time, B batch, then any axes.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from neuromix.core.observe import Noise

Coding: TypeAlias = Literal["bernoulli", "low-discrepancy"]
_GOLDEN = (math.sqrt(5) - 1) / 2


class RateCoder(nn.Module):
    """x [B, ...] to spikes s_t = [u_t < x], [T, B, ...], in the dtype of x.

    With "bernoulli" each u is drawn from [0, 1) through `Noise`. With "low-discrepancy" nothing is drawn: u_t of the
    n-th number of a sample is the fraction of h_t + n * golden ratio, where h_t is the t-th term of the van der
    Corput sequence in base 2. Then the rate over T steps is off by about (log2 T) / T at most, instead of the
    1 / sqrt(T) of chance, and equal numbers of a sample still fire at different steps.

    Below 0 a number never fires, from 1 on always. The spikes carry no gradient back to the numbers.
    """

    corput_T: Tensor

    def __init__(self, time_steps: int, coding: Coding = "bernoulli") -> None:
        super().__init__()
        self.time_steps, self.coding = time_steps, coding
        self.noise = Noise()
        terms = torch.tensor([van_der_corput(t) for t in range(time_steps)], dtype=torch.float64)
        self.register_buffer("corput_T", terms, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self._levels(x) < x).to(x.dtype)

    def _levels(self, x: Tensor) -> Tensor:
        """u, [T, B, ...], or [T, 1, ...] where it is the same for every sample."""
        if self.coding == "bernoulli":
            return self.noise.uniform((self.time_steps, *x.shape), x)
        # In float64: a multiple of the golden ratio loses its fraction in less.
        numbers = torch.arange(x[:1].numel(), dtype=torch.float64, device=x.device)
        shift = (numbers * _GOLDEN).view(x[:1].shape)
        first = self.corput_T.to(x.device, torch.float64).view(-1, *(1,) * x.dim())
        return ((first + shift) % 1.0).to(x.dtype)

    def extra_repr(self) -> str:
        return f"time_steps={self.time_steps}, coding={self.coding}"


def van_der_corput(number: int) -> float:
    """The binary digits of a number, mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8, ..."""
    digits = f"{number:b}"
    return int(digits[::-1], 2) / (1 << len(digits))
