"""Phonebook: which number stood beside a name? Mamba-2-Hybrid (Waleffe et al., 2024), made of random tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neuromix.core.config import Config
from neuromix.data.recall.dataset import Example, choose

SEPARATOR, QUESTION, ARROW = (
    0,
    1,
    2,
)  # between entries, before a name that is asked for, between name and number


@dataclass(frozen=True)
class Phonebook(Config):
    """`name number ; name number ; ... ? name -> number`: a list of entries, then one of them is asked for.

    Names and numbers are strings of random tokens out of two vocabularies that have nothing in common; the names of a
    list differ. With `shots`, other entries are looked up first: `? name -> number ;`. With `reversed`, the name that
    will be asked for stands before the list as well: `? name ;`.
    """

    pairs: int = 16  # entries of the list
    name_tokens: int = 2  # tokens of a name
    number_tokens: int = 4  # tokens of a number, which are the answer
    name_vocab: int = 26
    number_vocab: int = 10
    shots: int = 0  # worked look-ups before the one that is scored
    reversed: bool = False

    def validate(self) -> None:
        super().validate()
        self.require_positive("pairs", "name_tokens", "number_tokens", "name_vocab", "number_vocab")
        self.require(
            0 <= self.shots < self.pairs,
            f"shots must be 0 or more and fewer than {self.pairs} pairs, got {self.shots}",
        )
        self.require(
            self.pairs <= self._possible < 2**62,
            f"name_vocab and name_tokens make {self._possible} names; needed are {self.pairs} (pairs) to 2^62",
        )

    @property
    def _possible(self) -> int:
        return int(self.name_vocab**self.name_tokens)

    @property
    def vocab_size(self) -> int:
        """Tokens are in [0, vocab_size)."""
        return ARROW + 1 + self.name_vocab + self.number_vocab

    def draw(self, generator: torch.Generator) -> Example:
        names_PN = self._names(generator)
        first = ARROW + 1 + self.name_vocab
        digits = choose(torch.arange(first, self.vocab_size), self.pairs * self.number_tokens, generator)
        numbers_PN = digits.view(self.pairs, self.number_tokens)
        asked = torch.randperm(self.pairs, generator=generator)[: self.shots + 1].tolist()
        parts: list[Tensor] = []
        if self.reversed:
            parts += [_token(QUESTION), names_PN[asked[-1]], _token(SEPARATOR)]
        for name, number in zip(names_PN, numbers_PN, strict=True):
            parts += [name, number, _token(SEPARATOR)]
        for row in asked:
            parts += [_token(QUESTION), names_PN[row], _token(ARROW), numbers_PN[row], _token(SEPARATOR)]
        return Example(torch.cat(parts[:-1]), self.number_tokens)

    def _names(self, generator: torch.Generator) -> Tensor:
        """[pairs, name_tokens]; no two rows are equal."""
        found: dict[int, None] = {}  # in the order in which they were drawn
        while len(found) < self.pairs:
            found |= dict.fromkeys(torch.randint(self._possible, (self.pairs,), generator=generator).tolist())
        codes_P1 = torch.tensor(list(found)[: self.pairs])[:, None]
        weights_N = self.name_vocab ** torch.arange(self.name_tokens)
        return ARROW + 1 + codes_P1 // weights_N % self.name_vocab


def _token(token: int) -> Tensor:
    return torch.tensor([token])
