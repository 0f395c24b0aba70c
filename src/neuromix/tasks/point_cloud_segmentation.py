"""Segmentation of point clouds: a class for each voxel, cross-entropy, mean intersection over union.

Shapes: B batch, N voxels of all samples, C features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from neuromix.core.batch import Batch, Ragged
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.points.dataset import PointDataset, Views, open_scenes
from neuromix.tasks.point_cloud_classification import left_out, prepared, suited_training
from neuromix.training.task import Losses, Task

IGNORED = -1  # the label of a voxel that has no class


@dataclass(frozen=True)
class PointCloudSegmentationConfig(Config):
    """Config of PointCloudSegmentation. Its data: see `data.points.sources`."""

    data: str = ""  # a name or a folder
    views: Views = field(default_factory=lambda: Views(centre=False))  # how clouds become voxels
    normals: bool = True  # make them features, where the clouds have them
    fresh: bool = True  # train on new clouds of a generator in every epoch
    skip_broken: bool = False  # leave broken files out, and count them


@register_task("point-cloud-segmentation", variants={"scenes": {"data": "scenes"}})
class PointCloudSegmentation(Task):
    """A batch is cloud, a Ragged of voxels (features [N, C] with "coords" [N, 3]), and label, a Ragged [N] int64.

    The model gives a Ragged of logits [N, K], in the order of the voxels.
    """

    Config: ClassVar[type[Config]] = PointCloudSegmentationConfig
    kind = "point-cloud-segmentation"
    score = "miou"

    def __init__(self, config: PointCloudSegmentationConfig) -> None:
        super().__init__(config)
        if not config.data:
            raise ConfigError(
                "point-cloud-segmentation needs data: --data scenes, or --data FOLDER of clouds with a class a point"
            )
        self.clouds: PointDataset = open_scenes(
            config.data, config.views, normals=config.normals, skip_broken=config.skip_broken
        )

    def notes(self) -> list[str]:
        return left_out(self.clouds)

    def class_names(self) -> tuple[str, ...]:
        return self.clouds.classes

    def data(self, split: str, *, augment: bool = False) -> PointDataset:
        return self.clouds.split(split, augment=augment, fresh=augment and self.config.fresh)

    def training(self) -> dict[str, Any]:
        return {**suited_training(self.clouds), "batch_size": 8}

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """Classes and features, where the model has such fields."""
        return prepared(self.clouds, config)

    def loss(self, output: Any, batch: Batch) -> Losses:
        logits_NK, label_N = _pairs(output, batch, len(self.clouds.classes))
        # The mean over the voxels that have a class; 0 where none has.
        summed = F.cross_entropy(logits_NK, label_N, ignore_index=IGNORED, reduction="sum")
        return {"cross_entropy": summed / (label_N != IGNORED).sum().clamp(min=1)}

    def metrics(self) -> VoxelScores:
        return VoxelScores(len(self.clouds.classes))

    def confusion(self) -> VoxelConfusion:
        return VoxelConfusion(len(self.clouds.classes))


def _pairs(output: Any, batch: Batch, classes: int) -> tuple[Tensor, Tensor]:
    """Logits [N, K] and labels [N].

    Raises:
        ShapeError: the model gives something else.
    """
    label = batch["label"]
    logits_NK = output.values if isinstance(output, Ragged) else output
    assert isinstance(label, Ragged)
    if not isinstance(logits_NK, Tensor) or logits_NK.shape != (len(label.values), classes):
        given = list(logits_NK.shape) if isinstance(logits_NK, Tensor) else type(output).__name__
        raise ShapeError(
            f"the model gives {given}, the data need logits {[len(label.values), classes]}: set num_classes={classes}"
        )
    return logits_NK, label.values


class VoxelScores:
    """miou, the mean over the classes of intersection over union, and accuracy: shares in [0, 1] of voxels."""

    def __init__(self, classes: int) -> None:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

        self._classes = classes
        self._metrics = MetricCollection(
            {
                "miou": MulticlassJaccardIndex(classes, ignore_index=IGNORED),
                "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=IGNORED),
            }
        )

    def to(self, device: torch.device) -> None:
        self._metrics.to(device)

    def update(self, output: Any, batch: Batch) -> None:
        logits_NK, label_N = _pairs(output, batch, self._classes)
        self._metrics.update(logits_NK.float(), label_N)

    def compute(self) -> dict[str, float]:
        return {name: round(float(value), 6) for name, value in self._metrics.compute().items()}


class VoxelConfusion:
    """Counts [K, K] of voxels: a row a true class, a column an answer."""

    def __init__(self, classes: int) -> None:
        from torchmetrics.classification import MulticlassConfusionMatrix

        self._classes = classes
        self._metric = MulticlassConfusionMatrix(classes, ignore_index=IGNORED)

    def to(self, device: torch.device) -> None:
        self._metric.to(device)

    def update(self, output: Any, batch: Batch) -> None:
        logits_NK, label_N = _pairs(output, batch, self._classes)
        self._metric.update(logits_NK.float(), label_N)

    def compute(self) -> Tensor:
        counts_KK: Tensor = self._metric.compute()
        return counts_KK
