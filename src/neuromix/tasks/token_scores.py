"""What tasks of kind language-modelling share: the loss of the next token, and how it is scored.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.errors import ShapeError
from neuromix.data.text.dataset import NOT_SCORED
from neuromix.tasks.classification import prediction


def token_logits(output: Any, batch: Batch, vocab_size: int) -> Tensor:
    """The logits [B, L, V'] of an output, V' at least `vocab_size`: a model may round its vocabulary up.

    Raises:
        ShapeError: they do not fit the batch, or are too few.
    """
    logits_BLV, labels_BL = prediction(output), batch.tensor("labels")
    if logits_BLV.ndim != 3 or logits_BLV.shape[:2] != labels_BL.shape or logits_BLV.shape[2] < vocab_size:
        raise ShapeError(
            f"the model gives {list(logits_BLV.shape)}, the data need logits {[*labels_BL.shape, vocab_size]}: "
            f"set vocab_size={vocab_size}"
        )
    return logits_BLV.float()


def mean_cross_entropy(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """The mean over all tokens that are scored, in nats; 0 where none is."""
    nats_N = F.cross_entropy(
        logits_BLV.flatten(0, 1), labels_BL.flatten(), ignore_index=NOT_SCORED, reduction="sum"
    )
    return nats_N / (labels_BL != NOT_SCORED).sum().clamp(min=1)


class TextScores(torchmetrics.Metric):
    """perplexity, bits_per_byte, bits_per_token and accuracy, over all tokens that are scored.

    perplexity = exp(nats / tokens), bits_per_token = nats / (tokens ln 2), bits_per_byte = nats / (bytes ln 2), where
    the bytes are those of the text, so that it may be compared between tokenisers; accuracy is the share of tokens to
    which the model gives the largest probability.
    """

    full_state_update = False
    nats: Tensor
    bytes: Tensor
    tokens: Tensor
    right: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        for name in ("nats", "bytes"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")
        for name in ("tokens", "right"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, output: Any, batch: Batch) -> None:
        labels_BL = batch.tensor("labels")
        logits_BLV = token_logits(output, batch, self.vocab_size)
        scored_BL = labels_BL != NOT_SCORED
        count = scored_BL.sum()
        self.nats += mean_cross_entropy(logits_BLV, labels_BL) * count
        self.bytes += batch.tensor("bytes").sum()
        self.tokens += count
        self.right += (scored_BL & (logits_BLV.argmax(-1) == labels_BL)).sum()

    def compute(self) -> dict[str, float]:
        nats, tokens = float(self.nats), int(self.tokens)
        found = {
            "perplexity": math.exp(min(nats / tokens, 700.0)),  # beyond it there is no such number
            "bits_per_byte": nats / float(self.bytes) / math.log(2),
            "bits_per_token": nats / tokens / math.log(2),
            "accuracy": int(self.right) / tokens,
        }
        return {name: round(value, 6) for name, value in found.items()}


class AnswerScores(torchmetrics.Metric):
    """accuracy: the share of samples all of whose scored tokens are right; token_accuracy: the share of the tokens.

    Each token is given the right ones before it. So a sample whose tokens are all right is one that greedy generation
    answers exactly.
    """

    full_state_update = False
    samples: Tensor
    exact: Tensor
    tokens: Tensor
    right: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        for name in ("samples", "exact", "tokens", "right"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, output: Any, batch: Batch) -> None:
        labels_BL = batch.tensor("labels")
        scored_BL = labels_BL != NOT_SCORED
        right_BL = token_logits(output, batch, self.vocab_size).argmax(-1) == labels_BL
        self.samples += batch.size
        self.exact += (right_BL | ~scored_BL).all(1).sum()
        self.tokens += scored_BL.sum()
        self.right += (right_BL & scored_BL).sum()

    def compute(self) -> dict[str, float]:
        found = {"accuracy": self.exact / self.samples, "token_accuracy": self.right / self.tokens}
        return {name: round(float(value), 6) for name, value in found.items()}
