"""Classification of series: one label a window of a sensor, cross-entropy, accuracy.

Shapes: B batch, L steps, N channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.dataset import Sample
from neuromix.data.series.labelled import LabelledSeries, Normalise, open_labelled
from neuromix.tasks.audio_classification import collate_padded
from neuromix.tasks.classification import TINY, Classification, ClassificationConfig, suited_training


@dataclass(frozen=True)
class SeriesClassificationConfig(ClassificationConfig):
    """Config of SeriesClassification. Its data: a folder, see `data.series.labelled`."""

    normalise: Normalise = "channel"  # channel: mean 0 and deviation 1 of each over the training part
    steps: int | None = None  # that every series is cut or filled up to; null: the longest of each batch


@register_task("series-classification")
class SeriesClassification(Classification):
    """A batch is series [B, L, N] float32, length [B] and label [B] int64; the model gives logits [B, K].

    L is the longest series of the batch; shorter ones end with zeros. `length` says where.
    """

    Config: ClassVar[type[Config]] = SeriesClassificationConfig
    kind = "series-classification"

    def __init__(self, config: SeriesClassificationConfig) -> None:
        if not config.data:
            raise ConfigError(
                "series-classification needs data: --data FOLDER with NAME_TRAIN.ts and NAME_TEST.ts, or with "
                "x_train.npy and y_train.npy"
            )
        self.series: LabelledSeries = open_labelled(
            config.data, normalise=config.normalise, steps=config.steps
        )
        super().__init__(config, self.series.classes)

    def notes(self) -> list[str]:
        filled = self.series.filled
        return [f"filled {filled} missing value{'s' if filled > 1 else ''}"] if filled else []

    def data(self, split: str, *, augment: bool = False) -> LabelledSeries:
        return self.series.split(split)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return collate_padded(samples, "series")

    def training(self) -> dict[str, Any]:
        """Batches small enough for eight steps an epoch, as many of these sets have a few dozen samples."""
        samples = len(self.data("train"))
        suited = suited_training(samples, TINY)
        return {**suited, "batch_size": max(4, min(32, samples // 8))}

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """Classes and channels, where the model has such fields."""
        known = {"num_classes": self.classes, "in_channels": self.series.channels}
        return {name: value for name, value in known.items() if hasattr(config, name)}
