"""Associative recall: which value came with a key? H3 (Fu et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from neuromix.core.config import Config
from neuromix.data.recall.dataset import Example, choose

NOTHING = 0  # the answer for a key that did not occur


@dataclass(frozen=True)
class AssociativeRecall(Config):
    """Pairs of a key and a value, which repeat; then vocab - 1, a key, and its value.

    Of the vocab - 2 tokens from 1 on, the first half are keys and the others values. Each sequence gives every key a
    random value; keys are drawn with repeats, and the one that is asked for is uniform over those that occurred.
    """

    vocab: int = 20  # tokens, the marker and the one for nothing among them; even
    pairs: int = 20
    missing: bool = False  # ask for any key; the answer is 0 where it did not occur

    def validate(self) -> None:
        super().validate()
        self.require(
            self.vocab >= 6 and self.vocab % 2 == 0, f"vocab must be even and 6 or more, got {self.vocab}"
        )
        self.require_positive("pairs")

    @property
    def vocab_size(self) -> int:
        """Tokens are in [0, vocab_size)."""
        return self.vocab

    def draw(self, generator: torch.Generator) -> Example:
        half = self.vocab // 2 - 1
        values = choose(torch.arange(1 + half, 1 + 2 * half), half, generator)  # of key k: values[k - 1]
        keys = choose(torch.arange(1, 1 + half), self.pairs, generator)
        asked = choose(torch.arange(1, 1 + half) if self.missing else torch.unique(keys), 1, generator)
        answer = values[asked - 1] if bool((keys == asked).any()) else torch.tensor([NOTHING])
        pairs = torch.stack([keys, values[keys - 1]], 1).flatten()
        return Example(torch.cat([pairs, torch.tensor([self.vocab - 1]), asked, answer]), 1)
