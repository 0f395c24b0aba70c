"""RecallSamples: one part of an endless supply of made-up sequences with an answer at their end.

The parts are disjoint by construction: a checksum of a sequence says which part it belongs to, 14 of 16 to training,
one each to validation and test, and what is drawn for another part is drawn again.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.data.dataset import Sample, sample_generator
from neuromix.data.text.dataset import NOT_SCORED

SEED = 5021  # of the held-out parts, and of fixed training parts; never changes: figures are comparable
_PARTS = {"train": range(2, 16), "validation": range(1), "test": range(1, 2)}  # checksums modulo 16
_TRIES = 1000  # draws; a part is hit by one of 16
_NUMBERS = {"train": 0, "validation": 1, "test": 2}


class Example(NamedTuple):
    """A sequence that ends with its answer.

    Attributes:
        tokens: [L + 1], int64.
        answer: how many tokens at the end are the answer.
    """

    tokens: Tensor
    answer: int


class RecallGenerator(Protocol):
    """What makes the sequences; each is the Config of one kind of them."""

    @property
    def vocab_size(self) -> int:
        """Tokens are in [0, vocab_size)."""
        ...

    def draw(self, generator: torch.Generator) -> Example:
        """A sequence; all of one Config have one length."""
        ...


@dataclass(frozen=True)
class Sizes(Config):
    """How many samples there are."""

    samples: int = 5000  # for training, an epoch
    held_out: int = 500  # for validation, and for the test
    fresh: bool = True  # every epoch has new training samples, of the run's seed; else all have the same ones

    def validate(self) -> None:
        super().validate()
        self.require_positive("samples", "held_out")


class RecallSamples:
    """A part: "train", "validation" or "test". Samples of the held-out parts are the same in every run.

    A sample is ids [L] and labels [L], int64: the token after each where it belongs to the answer, else NOT_SCORED.
    """

    def __init__(self, source: RecallGenerator, split: str, sizes: Sizes) -> None:
        self.source, self.split = source, split
        self.is_fresh = split == "train" and sizes.fresh
        self._count = sizes.samples if split == "train" else sizes.held_out

    def __len__(self) -> int:
        return self._count

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """Sample `index`, drawn from the generator or from one of its own."""
        chance = generator if self.is_fresh else sample_generator(SEED, _NUMBERS[self.split], index)
        example = self._draw(chance)
        ids, labels = example.tokens[:-1], example.tokens[1:].clone()
        labels[: len(labels) - example.answer] = NOT_SCORED
        return {"ids": ids, "labels": labels}

    def _draw(self, chance: torch.Generator) -> Example:
        """A sequence of this part."""
        for _ in range(_TRIES):
            example = self.source.draw(chance)
            if part_of(example.tokens) == self.split:
                return example
        raise ConfigError(
            f"{type(self.source).__name__}: of {_TRIES} sequences none is for {self.split}: there are too few "
            "different ones; make them longer, or of more tokens"
        )


def part_of(tokens: Tensor) -> str:
    """Which part a sequence belongs to."""
    number = zlib.crc32(tokens.numpy().astype(np.int32).tobytes()) % 16
    return next(name for name, numbers in _PARTS.items() if number in numbers)


def choose(options: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many of the options [N], with repeats."""
    return options[torch.randint(len(options), (count,), generator=generator)]
