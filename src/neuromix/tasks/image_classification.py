"""Image classification: one label an image, cross-entropy, accuracy.

Shapes: B batch, C channels, H W image, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data import augment as augmentation
from neuromix.data.dataset import Dataset
from neuromix.data.images import ImageDataset, open_images
from neuromix.tasks.classification import Classification, ClassificationConfig, suited_training


@dataclass(frozen=True)
class ImageClassificationConfig(ClassificationConfig):
    """Config of ImageClassification. Its data: see `data.images`."""

    size: int | tuple[int, int] | None = None  # side, or (height, width), that images are brought to
    augmentation: str = "auto"  # none, digits, crop-flip or natural, see data.augment; auto: by the data
    mixup: float = 0.0  # alpha of Beta(alpha, alpha); 0: none
    cutmix: float = 0.0  # likewise; with both, each batch draws one of the two
    skip_broken: bool = False  # leave broken images out, and count them

    def validate(self) -> None:
        super().validate()
        for name in ("mixup", "cutmix"):
            self.require(getattr(self, name) >= 0, f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.augmentation != "auto":
            augmentation.policy(self.augmentation)


@register_task("image-classification", variants={"digits": {"data": "digits"}})
class ImageClassification(Classification):
    """A batch is image [B, C, H, W] float32, normalised, and label [B] int64; the model gives logits [B, K]."""

    Config: ClassVar[type[Config]] = ImageClassificationConfig
    kind = "image-classification"

    def __init__(self, config: ImageClassificationConfig) -> None:
        if not config.data:
            raise ConfigError("image-classification needs data: --data digits, or --data FOLDER of images")
        self.images: ImageDataset = open_images(config.data, size=config.size, skip_broken=config.skip_broken)
        super().__init__(config, self.images.classes)

    def notes(self) -> list[str]:
        left_out = self.images.skipped
        return [f"left out {left_out} broken image{'s' if left_out > 1 else ''}"] if left_out else []

    def data(self, split: str, *, augment: bool = False) -> Dataset:
        return self.images.split(split, self._policy() if augment else None)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Mixup or cutmix; the labels become probabilities [B, K]."""
        mixes = [(augmentation.mixup, self.config.mixup), (augmentation.cutmix, self.config.cutmix)]
        mixes = [(mix, alpha) for mix, alpha in mixes if alpha > 0]
        if not mixes:
            return batch
        mix, alpha = mixes[int(torch.randint(len(mixes), (), generator=generator))]
        return mix(batch, generator, self.classes, alpha)

    def training(self) -> dict[str, Any]:
        return suited_training(len(self.data("train")), self.images.height * self.images.width)

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """Classes, channels and size of the images, where the model has such fields."""
        images = self.images
        known = {
            "num_classes": self.classes,
            "in_channels": images.channels,
            "input_size": (images.height, images.width),
        }
        return {name: value for name, value in known.items() if hasattr(config, name)}

    def _policy(self) -> augmentation.Augment:
        name = self.config.augmentation
        if name == "auto":
            name = "digits" if self.config.data == "digits" else "natural"
        return augmentation.policy(name)
