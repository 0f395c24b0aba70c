"""A made-up task for nets with delays: how long after one channel does another one fire, or how long before it.

Each recording is a burst of three spikes in channel 0 and such a burst in channel 1, somewhere in 350 ms. The class is
the time from the first burst to the second, a multiple of 30 ms from -120 to 120 that is not 0. A burst by itself looks
alike in all classes, so that a net without memory can only guess.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from neuromix.data.events.value import Events
from neuromix.data.splits import Rows

MS = 1000  # microseconds
LAGS = (-120, -90, -60, -30, 30, 60, 90, 120)  # milliseconds
BURST = (0, 10, 20)  # milliseconds
LENGTH = 350  # milliseconds
SIZES = {"train": 2000, "validation": 400, "test": 800}
SEED = 7150  # never changes: figures are comparable only on the same recordings


@dataclass(frozen=True)
class Lags:
    """The recordings by row; see AudioSource. A row is the same in every run."""

    takes: ClassVar[type[Any]] = Events
    channels: ClassVar[int] = 2

    @property
    def classes(self) -> tuple[str, ...]:
        """The lags."""
        return tuple(f"{lag} ms" for lag in LAGS)

    @property
    def labels(self) -> Rows:
        """Class of each row; all are equally frequent."""
        return np.arange(sum(SIZES.values()), dtype=np.int64) % len(LAGS)

    @property
    def parts(self) -> Mapping[str, Rows]:
        """Rows of each part."""
        cuts = np.cumsum(list(SIZES.values()))
        return dict(zip(SIZES, np.split(np.arange(cuts[-1]), cuts[:-1]), strict=True))

    @property
    def stamp(self) -> Hashable:
        """They never change."""
        return SEED

    def read(self, row: int) -> Events:
        """The spikes of a row."""
        random = np.random.RandomState([SEED, row])
        lag = LAGS[row % len(LAGS)]
        first = random.randint(max(0, -lag) * MS, (LENGTH - BURST[-1] - max(0, lag)) * MS)
        bursts = [first + (later + start) * MS for later in (0, lag) for start in BURST]
        t, channel = np.array(bursts), np.repeat([0, 1], len(BURST))
        return Events(t, channel, np.zeros_like(t), np.ones(len(t), bool), 1, self.channels, sort=True)
