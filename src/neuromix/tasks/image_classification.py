"""Image classification: one label an image, cross-entropy, accuracy.

Shapes: B batch, C channels, H W image, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data import augment as augmentation
from neuromix.data.images import ImageDataset, open_images
from neuromix.training.task import Losses, Task

SMALL = 10_000  # training images, below which a set is trained with smaller batches
TINY = 16 * 16  # pixels: work for one thread


@dataclass(frozen=True)
class ImageClassificationConfig(Config):
    """Config of ImageClassification."""

    data: str = ""  # "digits", a folder of train- and test-*.parquet, or a folder of class folders
    size: int | tuple[int, int] | None = None  # side, or (height, width), that images are brought to
    augmentation: str = "auto"  # none, digits, crop-flip or natural, see data.augment; auto: by the data
    mixup: float = 0.0  # alpha of Beta(alpha, alpha); 0: none
    cutmix: float = 0.0  # likewise; with both, each batch draws one of the two
    label_smoothing: float = 0.1  # in [0, 1)
    skip_broken: bool = False  # leave broken images out, and count them

    def validate(self) -> None:
        self.require_within(0, 1, "label_smoothing")
        for name in ("mixup", "cutmix"):
            self.require(getattr(self, name) >= 0, f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.augmentation != "auto":
            augmentation.policy(self.augmentation)


@register_task("image-classification", variants={"digits": {"data": "digits"}})
class ImageClassification(Task):
    """A batch is image [B, C, H, W] float32, normalised, and label [B] int64; the model gives logits [B, K]."""

    Config: ClassVar[type[Config]] = ImageClassificationConfig
    kind = "image-classification"
    score = "accuracy"

    def __init__(self, config: ImageClassificationConfig) -> None:
        super().__init__(config)
        if not config.data:
            raise ConfigError("image-classification needs data: --data digits, or --data FOLDER of images")
        self.images: ImageDataset = open_images(config.data, size=config.size, skip_broken=config.skip_broken)
        self.classes = len(self.images.classes)

    def notes(self) -> list[str]:
        left_out = self.images.skipped
        return [f"left out {left_out} broken image{'s' if left_out > 1 else ''}"] if left_out else []

    def data(self, split: str, *, augment: bool = False) -> ImageDataset:
        return self.images.split(split, self._policy() if augment else None)

    def class_names(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.images.classes)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Mixup or cutmix; the labels become probabilities [B, K]."""
        mixes = [(augmentation.mixup, self.config.mixup), (augmentation.cutmix, self.config.cutmix)]
        mixes = [(mix, alpha) for mix, alpha in mixes if alpha > 0]
        if not mixes:
            return batch
        mix, alpha = mixes[int(torch.randint(len(mixes), (), generator=generator))]
        return mix(batch, generator, self.classes, alpha)

    def training(self) -> dict[str, Any]:
        """Small steps for small sets: with 1100 digits, batches of 32 instead of 64 halve the epochs needed.

        On tiny images one thread is as fast as two that wait for each other after each of many small ops, and
        far faster where another process wants a core.
        """
        suited = {"batch_size": 32, "lr": 5e-3} if len(self.data("train")) < SMALL else {}
        tiny = self.images.height * self.images.width <= TINY
        return {**suited, "threads": 1} if tiny else suited

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """Classes, channels and size of the images, where the model has such fields."""
        images = self.images
        known = {
            "num_classes": self.classes,
            "in_channels": images.channels,
            "input_size": (images.height, images.width),
        }
        return {name: value for name, value in known.items() if hasattr(config, name)}

    def loss(self, output: Any, batch: Batch) -> Losses:
        logits_BK = self._logits(output)
        smoothing = self.config.label_smoothing
        return {"cross_entropy": F.cross_entropy(logits_BK, batch.tensor("label"), label_smoothing=smoothing)}

    def metrics(self) -> Accuracy:
        return Accuracy(self.classes)

    def confusion(self) -> ConfusionMatrix:
        return ConfusionMatrix(self.classes)

    def _logits(self, output: Any) -> Tensor:
        logits_BK = prediction(output)
        if logits_BK.ndim != 2 or logits_BK.shape[1] < self.classes:
            raise ShapeError(
                f"the model gives {list(logits_BK.shape)}, the data need logits [B, {self.classes}]: "
                f"set num_classes={self.classes}"
            )
        return logits_BK

    def _policy(self) -> augmentation.Augment:
        name = self.config.augmentation
        if name == "auto":
            name = "digits" if self.config.data == "digits" else "natural"
        return augmentation.policy(name)


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
