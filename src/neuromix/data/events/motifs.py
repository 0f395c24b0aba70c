"""Motifs: sequences that are made of the same events and differ in their order alone.

A motif is a fixed random pattern of events over channels and time; a class is an order in which motifs come. Every
sample jitters the times of its events, each within its motif, and loses some. What is counted over the whole time is
the same for all orders: only what remembers can tell them apart.

Shapes: T steps, N channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from neuromix.core.config import Config
from neuromix.data.dataset import Sample


@dataclass(frozen=True)
class Motifs(Config):
    """A data set of orders: a sample is {"audio": [T, N] float32, "length": T, "label": int}.

    T = steps * (motifs of an order).
    """

    orders: tuple[tuple[int, ...], ...] = ((0, 1), (1, 0))  # a class each: numbers of motifs; all as long
    size: int = 400  # samples; their classes take turns
    channels: int = 32  # N
    steps: int = 20  # of a motif
    events: int = 60  # of a motif
    jitter: float = 1.0  # deviation of the time of an event, in steps, >= 0
    lost: float = 0.2  # share of events that a sample lacks, in [0, 1)
    seed: int = 0  # of the patterns

    def validate(self) -> None:
        self.require_positive("size", "channels", "steps", "events")
        self.require_within(0, 1, "lost")
        self.require(self.jitter >= 0, f"jitter must be 0 or more, got {self.jitter}")
        lengths = {len(order) for order in self.orders}
        self.require(
            len(self.orders) > 1 and lengths != {0} and len(lengths) == 1,
            f"orders need two or more of one length, got {self.orders}",
        )
        self.require(min(map(min, self.orders)) >= 0, f"motifs are numbered from 0, got {self.orders}")

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The sample `index`, which is of class index % (number of orders)."""
        label = index % len(self.orders)
        parts = [self._played(motif, generator) for motif in self.orders[label]]
        x_TN = torch.cat(parts)
        return {"audio": x_TN, "length": len(x_TN), "label": label}

    def _played(self, motif: int, generator: torch.Generator) -> torch.Tensor:
        """One motif with its jitter: [steps, N], 0 and 1."""
        random = np.random.RandomState([self.seed, motif])  # frozen by NumPy's compatibility policy
        time = torch.from_numpy(random.uniform(0, self.steps, self.events))
        channel = torch.from_numpy(random.randint(self.channels, size=self.events))
        time = time + self.jitter * torch.randn(self.events, generator=generator, dtype=time.dtype)
        kept = torch.rand(self.events, generator=generator) >= self.lost
        step = time.long().clamp(0, self.steps - 1)
        x_TN = torch.zeros(self.steps, self.channels)
        x_TN[step[kept], channel[kept]] = 1.0
        return x_TN
