"""Classification of point clouds: one label a cloud, cross-entropy, accuracy.

Shapes: B batch, N voxels of all samples, C features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.points.dataset import PointDataset, Views, open_points
from neuromix.tasks.classification import SMALL, Classification, ClassificationConfig


@dataclass(frozen=True)
class PointCloudClassificationConfig(ClassificationConfig):
    """Config of PointCloudClassification. Its data: see `data.points.sources`."""

    label_smoothing: float = 0.2  # in [0, 1)
    views: Views = field(default_factory=Views)  # how clouds become voxels, and are changed in training
    normals: bool = True  # make them features, where the clouds have them
    fresh: bool = True  # train on new clouds of a generator in every epoch
    skip_broken: bool = False  # leave broken files out, and count them


@register_task(
    "point-cloud-classification", variants={"shapes": {"data": "shapes"}, "shapes-10": {"data": "shapes-10"}}
)
class PointCloudClassification(Classification):
    """A batch is cloud, a Ragged of voxels (features [N, C] with "coords" [N, 3]), and label [B] int64.

    The model gives logits [B, K].
    """

    Config: ClassVar[type[Config]] = PointCloudClassificationConfig
    kind = "point-cloud-classification"

    def __init__(self, config: PointCloudClassificationConfig) -> None:
        if not config.data:
            raise ConfigError(
                "point-cloud-classification needs data: --data shapes, or --data FOLDER with a folder a class"
            )
        self.clouds: PointDataset = open_points(
            config.data, config.views, normals=config.normals, skip_broken=config.skip_broken
        )
        super().__init__(config, self.clouds.classes)

    def notes(self) -> list[str]:
        return left_out(self.clouds)

    def data(self, split: str, *, augment: bool = False) -> PointDataset:
        return self.clouds.split(split, augment=augment, fresh=augment and self.config.fresh)

    def training(self) -> dict[str, Any]:
        return suited_training(self.clouds)

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """Classes and features, where the model has such fields."""
        return prepared(self.clouds, config)


def left_out(clouds: PointDataset) -> list[str]:
    """What a user should know of files that were not read."""
    count = clouds.skipped
    return [f"left out {count} broken point cloud{'s' if count > 1 else ''}"] if count else []


def suited_training(clouds: PointDataset) -> dict[str, Any]:
    """Fields of TrainConfig for so many clouds: small steps for small sets."""
    return {"batch_size": 16, "lr": 2e-3} if len(clouds.split("train")) < SMALL else {}


def prepared(clouds: PointDataset, config: ModelConfig) -> dict[str, Any]:
    """Classes and features, where a model has such fields."""
    known = {"num_classes": len(clouds.classes), "in_channels": clouds.channels}
    return {name: value for name, value in known.items() if hasattr(config, name)}
