"""Recall tasks: made-up sequences, of which only the answer at the end is scored. See `data.recall`.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.recall import (
    AssociativeRecall,
    InductionHeads,
    Phonebook,
    RecallGenerator,
    RecallSamples,
    SelectiveCopying,
)
from neuromix.data.recall.dataset import Sizes
from neuromix.tasks.token_scores import AnswerScores, mean_cross_entropy, token_logits
from neuromix.training.task import Losses, Task


@dataclass(frozen=True)
class RecallConfig(Sizes):
    """What all recall tasks have; a subclass adds the fields of its sequences."""

    # Weight of the loss of all tokens beside that of the answer. Most of them cannot be told: 0 leaves them out.
    others: float = 0.0

    def validate(self) -> None:
        super().validate()
        self.require(self.others >= 0, f"others must be 0 or more, got {self.others}")


class Recall(Task):
    """A batch is ids [B, L] and labels [B, L] int64: the next token where it is the answer's, else -100.

    The model gives logits [B, L, V].
    """

    kind = "language-modelling"
    score = "accuracy"

    @property
    def source(self) -> RecallGenerator:
        """What makes the sequences."""
        source: RecallGenerator = self.config
        return source

    def data(self, split: str, *, augment: bool = False) -> RecallSamples:
        return RecallSamples(self.source, split, self.config)

    def training(self) -> dict[str, Any]:
        return {"batch_size": 32, "epochs": 10, "lr": 3e-3}

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        return {"vocab_size": self.source.vocab_size} if hasattr(config, "vocab_size") else {}

    def loss(self, output: Any, batch: Batch) -> Losses:
        logits_BLV = token_logits(output, batch, self.source.vocab_size)
        losses = {"answer": mean_cross_entropy(logits_BLV, batch.tensor("labels"))}
        if self.config.others:
            ids_BL = batch.tensor("ids")
            losses["others"] = self.config.others * mean_cross_entropy(logits_BLV[:, :-1], ids_BL[:, 1:])
        return losses

    def metrics(self) -> AnswerScores:
        return AnswerScores(self.source.vocab_size)


@dataclass(frozen=True)
class InductionHeadsConfig(RecallConfig, InductionHeads):
    """Config of the task induction-heads."""


@register_task(
    "induction-heads",
    variants={
        "induction-heads": {},
        "induction-heads-h3": {"length": 31, "vocab": 20, "reserved": 1, "others": 30.0, "fresh": False},
    },
)
class InductionHeadsTask(Recall):
    """What followed the special token?

    The variant induction-heads-h3 is as in H3: 20 tokens, 30 of context, and the mean loss over all 31 tokens.
    """

    Config: ClassVar[type[Config]] = InductionHeadsConfig


@dataclass(frozen=True)
class AssociativeRecallConfig(RecallConfig, AssociativeRecall):
    """Config of the task associative-recall."""


@register_task("associative-recall")
class AssociativeRecallTask(Recall):
    """Which value came with the key?"""

    Config: ClassVar[type[Config]] = AssociativeRecallConfig


@dataclass(frozen=True)
class SelectiveCopyingConfig(RecallConfig, SelectiveCopying):
    """Config of the task selective-copying."""


@register_task("selective-copying")
class SelectiveCopyingTask(Recall):
    """Which tokens lay among the noise?"""

    Config: ClassVar[type[Config]] = SelectiveCopyingConfig


@dataclass(frozen=True)
class PhonebookConfig(RecallConfig, Phonebook):
    """Config of the task phonebook."""


@register_task("phonebook")
class PhonebookTask(Recall):
    """Which number stood beside the name?"""

    Config: ClassVar[type[Config]] = PhonebookConfig
