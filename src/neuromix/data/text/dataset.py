"""TextWindows: a part of a text as windows of equal length; samples of language modelling.

Shapes: L length of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from neuromix.core.config import Spec
from neuromix.core.errors import DataError
from neuromix.data.dataset import Sample
from neuromix.data.text.corpus import Part, open_corpus, texts
from neuromix.data.text.tokeniser import Tokeniser, open_tokeniser
from neuromix.data.text.tokens import Tokens, tokens

NOT_SCORED = -100  # the label of a token that does not count


class TextWindows:
    """Windows that lie side by side, so that every token but the first of the text is predicted once.

    A sample is ids [L] and labels [L] int64, the token after each; labels are NOT_SCORED where the window goes beyond
    the end of the text, where the next token is of another document, and for the `context`. `bytes` is how many bytes
    of text the scored tokens stand for, taken at the mean of the part. Where there are several documents, segments [L]
    numbers them.

    Args:
        text: the tokens.
        length: L.
        context: tokens at the start of each window but the first that are read and not scored, since the window
            before scores them; in [0, L).

    Raises:
        DataError: fewer than two tokens, of which none can be predicted.
    """

    def __init__(self, text: Tokens, length: int, context: int = 0) -> None:
        if len(text) < 2:
            raise DataError(f"a text of {len(text)} tokens: there is nothing to predict")
        self.text, self.length, self.context = text, length, context
        self.stride = length - context

    def __len__(self) -> int:
        beyond = len(self.text) - 1 - self.length
        return 1 + max(0, -(-beyond // self.stride))

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """Window `index`; nothing is drawn."""
        return self.window(index * self.stride, self.context if index else 0)

    def window(self, start: int, context: int = 0) -> Sample:
        """The window at a token, of which the first `context` labels are not scored."""
        ids, owners = self.text.read(start, min(start + self.length + 1, len(self.text)))
        labels = np.where(owners[1:] == owners[:-1], ids[1:], NOT_SCORED)
        labels[:context] = NOT_SCORED
        missing = self.length - len(labels)
        scored = int((labels != NOT_SCORED).sum())
        sample: dict[str, torch.Tensor | float] = {
            "ids": torch.from_numpy(np.pad(ids[:-1], (0, missing))),
            "labels": torch.from_numpy(np.pad(labels, (0, missing), constant_values=NOT_SCORED)),
            "bytes": scored * self.text.size / len(self.text),
        }
        if self.text.documents > 1:
            sample["segments"] = torch.from_numpy(np.pad(owners[:-1], (0, missing), mode="edge"))
        return sample


class ShiftedWindows(TextWindows):
    """Windows for training: number i starts anywhere in the i-th stretch of L tokens, elsewhere in each epoch.

    Raises:
        DataError: the text is shorter than a window.
    """

    def __init__(self, text: Tokens, length: int) -> None:
        if len(text) <= length:
            raise DataError(
                f"the training part has {len(text)} tokens, and a window of {length} needs {length + 1}: give more "
                f"text, or shorter windows, --set task.length={max(1, len(text) // 8)}"
            )
        super().__init__(text, length)

    def __len__(self) -> int:
        return (len(self.text) - 1) // self.length

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """Window `index`; its place is drawn."""
        shift = int(torch.randint(self.length, (), generator=generator))
        return self.window(min(index * self.length + shift, len(self.text) - 1 - self.length))


class Text:
    """A text in three parts, and how it becomes tokens; see `open_text`."""

    def __init__(self, parts: Mapping[str, Part], tokeniser: Tokeniser) -> None:
        self._parts, self.tokeniser = parts, tokeniser
        self._tokens: dict[str, Tokens] = {}

    def size(self, split: str) -> int:
        """Bytes of a part."""
        return sum(document.size for document in self._parts[split])

    def tokens(self, split: str) -> Tokens:
        """The tokens of "train", "validation" or "test".

        Raises:
            DataError: the part is empty, or no text.
        """
        if split not in self._tokens:
            if not self.size(split):
                raise DataError(
                    f"the {split} part of the text is empty; give more text, or a larger task.{split}"
                )
            self._tokens[split] = tokens(self._parts[split], self.tokeniser)
        return self._tokens[split]


def open_text(data: str | Path, tokeniser: Spec, validation: float = 0.05, test: float = 0.05) -> Text:
    """Opens a text file, or a folder of text files; see `open_corpus` for the parts.

    Args:
        tokeniser: what has no alphabet yet learns that of the training part.

    Raises:
        DataError: the files are missing, empty or no text.
    """
    parts = open_corpus(data, validation, test)
    return Text(parts, open_tokeniser(tokeniser).fitted(lambda: texts(parts["train"])))
