"""Language modelling: which token comes next in a text? Cross-entropy, bits per byte, perplexity.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from neuromix.core.batch import Batch
from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.text.dataset import ShiftedWindows, Text, TextWindows, open_text
from neuromix.tasks.token_scores import TextScores, mean_cross_entropy, token_logits
from neuromix.training.task import Losses, Task

BATCH = 32
STEPS = 2000  # that suit a small text; a large one is read once


@dataclass(frozen=True)
class LanguageModellingConfig(Config):
    """Config of LanguageModelling. Its data: see `data.text.corpus.open_corpus`."""

    data: str = ""  # a text file, or a folder of text files
    # bytes, characters, or a file of the library tokenizers, tokenizer.json. A run keeps all that makes its tokeniser.
    tokeniser: Spec = Spec("bytes")
    length: int = 256  # L, tokens of a window
    context: int = 0  # tokens of a window that are read and not scored in an evaluation, in [0, length)
    validation: float = 0.05  # share of the bytes, those before the test part
    test: float = 0.05  # share of the bytes, the last ones

    def validate(self) -> None:
        self.require_positive("length")
        self.require_within(0, self.length, "context")
        self.require(
            self.validation >= 0 and self.test >= 0 and self.validation + self.test <= 1,
            f"validation and test are shares that make at most 1 together, got {self.validation} and {self.test}",
        )


@register_task("language-modelling")
class LanguageModelling(Task):
    """A batch is ids [B, L] and labels [B, L] int64, bytes [B] and, of several documents, segments [B, L].

    labels are the next tokens, -100 where none is scored. The model gives logits [B, L, V].
    """

    Config: ClassVar[type[Config]] = LanguageModellingConfig
    kind = "language-modelling"
    score = "bits_per_byte"
    higher_is_better = False

    def __init__(self, config: LanguageModellingConfig) -> None:
        if not config.data:
            raise ConfigError("language-modelling needs data: --data FILE.txt, or a folder of text files")
        self.text: Text = open_text(config.data, config.tokeniser, config.validation, config.test)
        super().__init__(config.replace(tokeniser=self.text.tokeniser.spec))

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.text.tokeniser.vocab_size

    def notes(self) -> list[str]:
        """What the held-out parts have that the vocabulary lacks."""
        held_out = {
            split: self.text.tokens(split) for split in ("validation", "test") if self.text.size(split)
        }
        return [
            f"{split}: {text.unknown} of {len(text)} tokens stand for something that the vocabulary lacks"
            for split, text in held_out.items()
            if text.unknown
        ]

    def data(self, split: str, *, augment: bool = False) -> TextWindows:
        text = self.text.tokens(split)
        return (
            ShiftedWindows(text, self.config.length)
            if augment
            else TextWindows(text, self.config.length, self.config.context)
        )

    def training(self) -> dict[str, Any]:
        steps_per_epoch = max(1, len(self.data("train", augment=True)) // BATCH)
        epochs = min(100, max(1, round(STEPS / steps_per_epoch)))
        return {"batch_size": BATCH, "epochs": epochs, "lr": 2e-3, "weight_decay": 0.1}

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size} if hasattr(config, "vocab_size") else {}

    def loss(self, output: Any, batch: Batch) -> Losses:
        logits_BLV = token_logits(output, batch, self.vocab_size)
        return {"cross_entropy": mean_cross_entropy(logits_BLV, batch.tensor("labels"))}

    def metrics(self) -> TextScores:
        return TextScores(self.vocab_size)
