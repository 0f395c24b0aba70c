"""Selective copying: which tokens lay among the noise, in order? Mamba (Gu and Dao, 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neuromix.core.config import Config
from neuromix.data.recall.dataset import Example, choose

NOISE = 0


@dataclass(frozen=True)
class SelectiveCopying(Config):
    """`length` tokens of which `data` are random ones at random places, all others noise; a marker; the data in order.

    Noise is token 0, the marker vocab - 1, data are drawn with repeats from those between.
    """

    length: int = 4096  # of the part that is to be remembered
    vocab: int = 16  # tokens, noise and marker among them
    data: int = 16  # tokens that are to be copied

    def validate(self) -> None:
        super().validate()
        self.require_positive("data")
        self.require(self.vocab >= 4, f"vocab must be 4 or more, got {self.vocab}")
        self.require(
            self.length >= self.data, f"length must be {self.data} (data) or more, got {self.length}"
        )

    @property
    def vocab_size(self) -> int:
        """Tokens are in [0, vocab_size)."""
        return self.vocab

    def draw(self, generator: torch.Generator) -> Example:
        data = choose(torch.arange(NOISE + 1, self.vocab - 1), self.data, generator)
        places = torch.randperm(self.length, generator=generator)[: self.data].sort().values
        scattered = torch.full((self.length,), NOISE).index_copy(0, places, data)
        return Example(torch.cat([scattered, torch.tensor([self.vocab - 1]), data]), self.data)
