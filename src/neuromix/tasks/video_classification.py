"""Classification of video clips: one label a clip, cross-entropy, accuracy.

Shapes: B batch, T frames, C channels, H W frame, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from neuromix.core.config import Config
from neuromix.core.errors import DataError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.video.moving_digits import Motion, MovingDigits
from neuromix.tasks.classification import Classification, ClassificationConfig


@dataclass(frozen=True)
class VideoClassificationConfig(ClassificationConfig):
    """Config of VideoClassification."""

    data: str = "moving-digits"
    motion: Motion = field(default_factory=Motion)
    fresh: bool = True  # train on new clips in every epoch


@register_task("video-classification", variants={"moving-digits": {"data": "moving-digits"}})
class VideoClassification(Classification):
    """A batch is image [B, T, C, H, W] float32, a frame a step, and label [B] int64; the model gives logits [B, K]."""

    Config: ClassVar[type[Config]] = VideoClassificationConfig
    kind = "video-classification"

    def __init__(self, config: VideoClassificationConfig) -> None:
        if config.data != "moving-digits":
            raise DataError(f"unknown video data {config.data!r}; known: moving-digits")
        super().__init__(config, MovingDigits(config.motion).classes)

    def data(self, split: str, *, augment: bool = False) -> MovingDigits:
        return MovingDigits(self.config.motion, split, fresh=augment and self.config.fresh)

    def training(self) -> dict[str, Any]:
        return {"batch_size": 32, "lr": 5e-3, "epochs": 20}

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """Classes and channels, where the model has such fields."""
        known = {"num_classes": self.classes, "in_channels": 1}
        return {name: value for name, value in known.items() if hasattr(config, name)}
