"""Tokenisers: text as numbers and back; bytes, and characters of an alphabet that is learnt from the training part.

A tokeniser is described whole by its Config - an alphabet, the JSON of a vocabulary - so that a run which keeps the
Config can read and write text when the data it was trained on are gone.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from neuromix.core import registry
from neuromix.core.config import Config, Spec
from neuromix.core.errors import DataError

Ids: TypeAlias = npt.NDArray[np.int64]  # [N], tokens
UNKNOWN = 0  # the token of a character that is not in the alphabet
REPLACEMENT = "\ufffd"  # how it is written


class Tokeniser:
    """Base of all tokenisers.

    Attributes:
        raw: its tokens are the bytes of a file, which so needs no other form.
        vocab_size: tokens are in [0, vocab_size).
    """

    Config: ClassVar[type[Config]] = Config
    name: ClassVar[str] = ""
    raw: ClassVar[bool] = False
    vocab_size: int

    def __init__(self, config: Any) -> None:
        self.config: Any = config

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Builds the tokeniser; what the registry calls."""
        return cls(config)

    @property
    def spec(self) -> Spec:
        """What makes the same tokeniser again, with all that it has learnt."""
        return Spec(self.name, self.config.to_dict())

    def fitted(self, texts: Callable[[], Iterable[str]]) -> Self:
        """The tokeniser with what it still has to learn from the training part, which `texts` gives piece by piece."""
        return self

    def encode(self, text: str) -> Ids:
        """The tokens of a text [N], int64; what the vocabulary lacks becomes its token for the unknown."""
        raise NotImplementedError

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens of a text that somebody has typed.

        Raises:
            DataError: it is empty, or has something that the vocabulary lacks.
        """
        raise NotImplementedError

    def count_unknown(self, ids: Ids) -> int:
        """How many of these tokens stand for something that the vocabulary lacks."""
        return 0

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        push = self.decoder()
        return "".join([*map(push, ids), push(None)])

    def decoder(self) -> Callable[[int | None], str]:
        """A fresh decoder for tokens that come one by one.

        Returns:
            token -> the text that it completes, perhaps none; None, at the end, gives what is left over.
        """
        raise NotImplementedError


@registry.register("tokeniser", "bytes")
class Bytes(Tokeniser):
    """A token is a byte of UTF-8: 256 of them, no text is unknown."""

    name = "bytes"
    raw = True
    vocab_size = 256

    def encode(self, text: str) -> Ids:
        # What a terminal passed on that was no UTF-8 comes as surrogates, and goes back into its bytes.
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int64)

    def encode_prompt(self, text: str) -> list[int]:
        return _not_empty(self.encode(text).tolist())

    def decoder(self) -> Callable[[int | None], str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")

        def push(token: int | None) -> str:
            return decoder.decode(b"", True) if token is None else decoder.decode(bytes([token]))

        return push


@dataclass(frozen=True)
class CharactersConfig(Config):
    """Config of Characters."""

    alphabet: str = ""  # in ascending order; "": the characters of the training part

    def validate(self) -> None:
        self.require(
            list(self.alphabet) == sorted(set(self.alphabet)), "alphabet must ascend, each letter once"
        )


@registry.register("tokeniser", "characters")
class Characters(Tokeniser):
    """A token is a character of the training part; token 0 stands for any other one."""

    Config: ClassVar[type[Config]] = CharactersConfig
    name = "characters"

    def __init__(self, config: CharactersConfig) -> None:
        super().__init__(config)
        self._codes = np.array([ord(character) for character in config.alphabet], np.uint32)
        self.vocab_size = 1 + len(self._codes)

    def fitted(self, texts: Callable[[], Iterable[str]]) -> Self:
        if self.config.alphabet:
            return self
        found: set[str] = set()
        for text in texts():
            found.update(text)
        if not found:
            raise DataError("an alphabet is learnt from the training part, which is empty")
        return type(self)(CharactersConfig("".join(sorted(found))))

    def encode(self, text: str) -> Ids:
        codes_N = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        places_N = np.searchsorted(self._codes, codes_N)
        known_N = self._codes.take(places_N, mode="clip") == codes_N if len(self._codes) else codes_N < 0
        return np.where(known_N, places_N + 1, UNKNOWN).astype(np.int64)

    def encode_prompt(self, text: str) -> list[int]:
        ids = self.encode(text)
        unknown = np.flatnonzero(ids == UNKNOWN)
        if len(unknown):
            raise DataError(
                f"character {text[unknown[0]]!r} of the prompt, at position {unknown[0]}, is not one of the "
                f"{len(self._codes)} that the model was trained on"
            )
        return _not_empty(ids.tolist())

    def count_unknown(self, ids: Ids) -> int:
        return int((ids == UNKNOWN).sum())

    def decoder(self) -> Callable[[int | None], str]:
        letters = REPLACEMENT + self.config.alphabet
        return lambda token: "" if token is None else letters[token]


def open_tokeniser(spec: Spec) -> Tokeniser:
    """The tokeniser of a spec; a name that ends in `.json` is a file of the library tokenizers.

    Raises:
        UnknownNameError: there is no such tokeniser.
        DataError: its file is missing or damaged.
        MissingExtraError: tokenizers is needed and not installed.
    """
    if spec.name.endswith(".json"):
        spec = Spec("tokenizers", {"file": spec.name, **spec.options})
    tokeniser: Tokeniser = registry.build("tokeniser", spec)
    return tokeniser


def _not_empty(ids: list[int]) -> list[int]:
    if not ids:
        raise DataError("the prompt is empty; give at least one character to go on from")
    return ids
