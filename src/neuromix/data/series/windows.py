"""Windows: every stretch of a series that is long enough for a look-back and what follows it.

Shapes: R rows, N variates, F calendar features, L look-back, S horizon.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neuromix.data.dataset import Sample


@dataclass(frozen=True)
class Windows:
    """R - L - S + 1 windows, each one row after the one before.

    A sample is {"series": [L, N], "future": [S, N]} and, with calendar features, "calendar": [L, F]; all float32.

    Attributes:
        values_RN: standardised.
        calendar_RF: of the rows; None: without.
    """

    values_RN: Tensor
    calendar_RF: Tensor | None
    look_back: int
    horizon: int

    def __len__(self) -> int:
        return max(0, len(self.values_RN) - self.look_back - self.horizon + 1)

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The window that begins at row `index`."""
        now = index + self.look_back
        sample = {"series": self.values_RN[index:now], "future": self.values_RN[now : now + self.horizon]}
        return sample if self.calendar_RF is None else {**sample, "calendar": self.calendar_RF[index:now]}
