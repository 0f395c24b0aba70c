"""Induction heads: what followed a special token when it came first? Mamba (Gu and Dao, 2023), H3 (Fu et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neuromix.core.config import Config
from neuromix.data.recall.dataset import Example, choose


@dataclass(frozen=True)
class InductionHeads(Config):
    """L - 1 random tokens, one of which is replaced by the special one, and the special one again at the end.

    The special token is vocab - 1; its first place is uniform over [0, L - 3). The answer is the token after it.
    """

    length: int = 32  # L, 4 or more
    vocab: int = 16  # tokens, the special one among them
    reserved: int = 0  # tokens from 0 on that are never drawn

    def validate(self) -> None:
        super().validate()
        self.require(self.length >= 4, f"length must be 4 or more, got {self.length}")
        self.require(self.reserved >= 0, f"reserved must be 0 or more, got {self.reserved}")
        self.require(
            self.vocab - self.reserved >= 3,
            f"vocab must leave 2 tokens beside the special one, got {self.vocab}",
        )

    @property
    def vocab_size(self) -> int:
        """Tokens are in [0, vocab_size)."""
        return self.vocab

    def draw(self, generator: torch.Generator) -> Example:
        special = self.vocab - 1
        tokens = choose(torch.arange(self.reserved, special), self.length + 1, generator)
        place = int(torch.randint(self.length - 3, (), generator=generator))
        tokens[place] = tokens[-2] = special
        tokens[-1] = tokens[place + 1]
        return Example(tokens, 1)
