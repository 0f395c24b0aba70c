"""Subwords: tokenisers of the library tokenizers (BPE, WordPiece, unigrams), from the one JSON file that they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from neuromix.core import registry
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError, DataError, MissingExtraError
from neuromix.data.text.tokeniser import REPLACEMENT, Ids, Tokeniser


@dataclass(frozen=True)
class SubwordsConfig(Config):
    """Config of Subwords: one of the two."""

    file: str = ""  # a tokenizer.json
    json: str = ""  # what it holds, which goes first


@registry.register("tokeniser", "tokenizers")
class Subwords(Tokeniser):
    """A token is an entry of a vocabulary; no special tokens are added to the text.

    Its Config holds the whole file, so that a run which keeps it needs the file no more.
    """

    Config: ClassVar[type[Config]] = SubwordsConfig
    name = "tokenizers"

    def __init__(self, config: SubwordsConfig) -> None:
        text = config.json or _read(config.file)
        self._tokenizer = _parse(text, config.file or "the run")
        super().__init__(SubwordsConfig(config.file, self._tokenizer.to_str()))
        # Numbers may be left out, so that the largest one counts.
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocabulary.values(), default=-1)
        self._unknown = vocabulary.get(getattr(self._tokenizer.model, "unk_token", None) or "", -1)

    def encode(self, text: str) -> Ids:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def encode_prompt(self, text: str) -> list[int]:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        found = self._tokenizer.encode(text, add_special_tokens=False)
        for token, (start, stop) in zip(found.ids, found.offsets, strict=True):
            if token == self._unknown:
                raise DataError(
                    f"{text[start:stop]!r} of the prompt, at position {start}, is not in the vocabulary of the "
                    f"{self.vocab_size} tokens that the model was trained on"
                )
        if not found.ids:
            raise DataError(f"the prompt {text!r} has no tokens; give some text to go on from")
        return list(found.ids)

    def count_unknown(self, ids: Ids) -> int:
        return int((ids == self._unknown).sum())

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def decoder(self) -> Callable[[int | None], str]:
        seen: list[int] = []
        begin = read = (
            0  # what was told ends at `read`; from `begin` on it is decoded again, for a space may depend on it
        )

        def push(token: int | None) -> str:
            nonlocal begin, read
            seen.extend([] if token is None else [token])
            text = self.decode(seen[begin:])
            # A character whose bytes are not all there yet reads as a replacement; it is waited for.
            if token is not None and text.endswith(REPLACEMENT):
                return ""
            told = self.decode(seen[begin:read])
            begin, read = read, len(seen)
            return text[len(told) :]

        return push


def _read(file: str) -> str:
    if not file:
        raise ConfigError("tokeniser tokenizers needs a file: --set task.tokeniser=tokenizer.json")
    path = Path(file).expanduser()
    if not path.is_file():
        raise DataError(f"no tokeniser file at {path}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the tokeniser {path}: {error}") from error


def _parse(text: str, source: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError("a tokenizer.json", "text") from error
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more special
        raise DataError(f"{source} holds no tokeniser of the library tokenizers: {error}") from error
