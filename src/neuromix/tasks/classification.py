"""What tasks with one label a sample share: cross-entropy, accuracy, the confusion matrix.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ShapeError
from neuromix.training.task import Confusion, Losses, Metrics, Task

SMALL = 10_000  # training samples, below which a set is trained with smaller batches
TINY = 16 * 16  # pixels: work for one thread


@dataclass(frozen=True)
class ClassificationConfig(Config):
    """The fields that all classification tasks have."""

    data: str = ""  # a name or a folder
    label_smoothing: float = 0.1  # in [0, 1)
    # Cross-entropy of the softmax, or a binary one of each class by itself, the mean over classes.
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"

    def validate(self) -> None:
        self.require_within(0, 1, "label_smoothing")


class Classification(Task):
    """A batch has label [B], int64, or [B, K], probabilities; the model gives logits [B, K].

    Args:
        config: of the task.
        names: of the classes, by label.
    """

    Config: ClassVar[type[Config]] = ClassificationConfig
    score = "accuracy"

    def __init__(self, config: ClassificationConfig, names: Sequence[str]) -> None:
        super().__init__(config)
        self.names = tuple(map(str, names))

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.names)

    def class_names(self) -> tuple[str, ...]:
        return self.names

    def loss(self, output: Any, batch: Batch) -> Losses:
        logits_BK = self._logits(output)
        smoothing = self.config.label_smoothing
        if self.config.loss == "bce":
            return {"bce": binary_cross_entropy(logits_BK, batch.tensor("label"), smoothing)}
        return {"cross_entropy": F.cross_entropy(logits_BK, batch.tensor("label"), label_smoothing=smoothing)}

    def metrics(self) -> Metrics:
        return Accuracy(self.classes)

    def confusion(self) -> Confusion:
        return ConfusionMatrix(self.classes)

    def _logits(self, output: Any) -> Tensor:
        logits_BK = prediction(output)
        if logits_BK.ndim != 2 or logits_BK.shape[1] < self.classes:
            raise ShapeError(
                f"the model gives {list(logits_BK.shape)}, the data need logits [B, {self.classes}]: "
                f"set num_classes={self.classes}"
            )
        return logits_BK


def binary_cross_entropy(logits_BK: Tensor, label: Tensor, smoothing: float) -> Tensor:
    """Mean over samples and classes; label [B] int64 or [B, K]; smoothing mixes in 1/K as cross-entropy does."""
    classes = logits_BK.shape[1]
    target_BK = label if label.is_floating_point() else F.one_hot(label, classes)
    target_BK = target_BK.to(logits_BK) * (1 - smoothing) + smoothing / classes
    return F.binary_cross_entropy_with_logits(logits_BK, target_BK)


def suited_training(samples: int, pixels: int) -> dict[str, Any]:
    """Fields of TrainConfig for so many training images of so many pixels.

    Small steps for small sets: with 1100 digits, batches of 32 instead of 64 halve the epochs needed. On tiny images
    one thread is as fast as two that wait for each other after each of many small ops, and far faster where another
    process wants a core.
    """
    suited = {"batch_size": 32, "lr": 5e-3} if samples < SMALL else {}
    return {**suited, "threads": 1} if pixels <= TINY else suited


class Accuracy:
    """accuracy, and top5_accuracy where there are more than five classes: shares in [0, 1]."""

    def __init__(self, classes: int) -> None:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        ranks = {"accuracy": 1} | ({"top5_accuracy": 5} if classes > 5 else {})
        self._metrics = MetricCollection(
            {name: MulticlassAccuracy(classes, top_k=top, average="micro") for name, top in ranks.items()}
        )

    def to(self, device: torch.device) -> None:
        self._metrics.to(device)

    def update(self, output: Any, batch: Batch) -> None:
        self._metrics.update(prediction(output).float(), batch.tensor("label"))

    def compute(self) -> dict[str, float]:
        return {name: round(float(value), 6) for name, value in self._metrics.compute().items()}


class ConfusionMatrix:
    """Counts [K, K]: a row a true class, a column an answer."""

    def __init__(self, classes: int) -> None:
        from torchmetrics.classification import MulticlassConfusionMatrix

        self._metric = MulticlassConfusionMatrix(classes)

    def to(self, device: torch.device) -> None:
        self._metric.to(device)

    def update(self, output: Any, batch: Batch) -> None:
        self._metric.update(prediction(output).float(), batch.tensor("label"))

    def compute(self) -> Tensor:
        counts_KK: Tensor = self._metric.compute()
        return counts_KK


def prediction(output: Any) -> Tensor:
    """The logits of an output: itself, or its first field."""
    logits: Tensor = output if isinstance(output, Tensor) else output[0]
    return logits
