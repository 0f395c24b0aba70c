"""Place recognition: which place of a route does a query show? Recall@N, precision and recall, sequences.

Shapes: B batch, P places, R rows (references), Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.places import SYNTHETIC, PlaceDataset, open_places
from neuromix.data.synthetic_places import Street
from neuromix.measure.retrieval import distance_matrix, precision_recall, recall_at, sequence_distance
from neuromix.training.task import Losses, Task


@dataclass(frozen=True)
class PlaceRecognitionConfig(Config):
    """Config of PlaceRecognition. Its data: see `data.places`."""

    data: str = ""  # synthetic-places, or a folder with a folder of images a traverse
    size: int | tuple[int, int] = 28  # side, or (height, width), that images are brought to
    window: int | None = 7  # of the patch normalisation, odd; None: none
    places: int | None = None  # how many, from the first on; None: all of a folder, 20 made up ones
    calibration: int | None = None  # places whose queries are for validation; None: a quarter
    references: tuple[str, ...] = ()  # folders to learn from; (): all but the query
    query: str | None = None  # the folder that is tested; None: the last
    every: int = 1  # take each so-many-th image of a folder
    street: Street = field(default_factory=Street)  # how made up places look
    rivals: Literal["all", "split"] = "all"  # places that compete: all, or those of the split alone
    recall_numbers: tuple[int, ...] = (1, 5, 10, 15, 20, 25)  # N
    sequence_length: int = 1  # match so many images in a row
    # As released: row k of the scores is taken for the k-th place, also where rows are missing, and neurons that never
    # fired are a row before all.
    row_index: bool = False

    def validate(self) -> None:
        self.require_positive("size", "every", "sequence_length", "recall_numbers")
        self.require(1 in self.recall_numbers, "recall_numbers need a 1: recall@1 is the score")
        self.require(
            self.window is None or (self.window > 0 and self.window % 2 == 1),
            f"window must be odd, got {self.window}",
        )
        self.require(self.places is None or self.places > 1, f"places must be 2 or more, got {self.places}")


@register_task("place-recognition")
class PlaceRecognition(Task):
    """A batch is image [B, 1, H, W] float32 in [0, 1], label [B], the place, and traverse [B].

    The model gives scores [B, P], larger is likelier, below 0 for places that it does not know; if its output has
    `unregularised`, these are scored as well.
    """

    Config: ClassVar[type[Config]] = PlaceRecognitionConfig
    kind = "place-recognition"
    score = "recall@1"

    def __init__(self, config: PlaceRecognitionConfig) -> None:
        super().__init__(config)
        if not config.data:
            raise ConfigError(
                f"place-recognition needs data: --data {SYNTHETIC}, or a folder of folders of images"
            )
        names = ("size", "window", "places", "calibration", "references", "query", "every", "street")
        self.images: PlaceDataset = open_places(
            config.data, **{name: getattr(config, name) for name in names}
        )

    @property
    def places(self) -> int:
        """P."""
        return self.images.route.places

    def notes(self) -> list[str]:
        *references, query = self.images.route.traverses
        return [
            f"{self.places} places, {self.images.calibration} of them for calibration; learns from "
            f"{', '.join(references)}, tests {query}"
        ]

    def data(self, split: str, *, augment: bool = False) -> PlaceDataset:
        return self.images.split(split)

    def training(self) -> dict[str, Any]:
        """All references are one batch, so that all modules have something to learn all the time."""
        return {"batch_size": len(self.data("train")), "threads": 1}

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        known = {
            "places": self.places,
            "num_classes": self.places,
            "in_channels": 1,
            "input_size": self.images.size,
        }
        return {name: value for name, value in known.items() if hasattr(config, name)}

    def loss(self, output: Any, batch: Batch) -> Losses:
        return {"cross_entropy": F.cross_entropy(_scores(output), batch.tensor("label"))}

    def metrics(self) -> PlaceMetrics:
        return PlaceMetrics(self.config, self.places)


class PlaceMetrics(torchmetrics.Metric):
    """recall@N for the N that there are places for, and auc_pr, the area under precision and recall; in [0, 1].

    Args:
        config: of the task.
        places: P.
    """

    full_state_update = False

    def __init__(self, config: PlaceRecognitionConfig, places: int) -> None:
        super().__init__()
        self.config, self.places = config, places
        for name in ("scores", "unregularised", "unassigned", "label"):
            self.add_state(name, [], dist_reduce_fx="cat")

    scores: list[Tensor]
    unregularised: list[Tensor]
    unassigned: list[Tensor]
    label: list[Tensor]

    def update(self, output: Any, batch: Batch) -> None:
        scores_BP = _scores(output)
        if scores_BP.ndim != 2 or scores_BP.shape[1] != self.places:
            raise ShapeError(
                f"the model gives {list(scores_BP.shape)}, the data need scores [B, {self.places}]"
            )
        self.scores.append(scores_BP)
        self.label.append(batch.tensor("label"))
        self.unassigned.append(getattr(output, "unassigned", torch.full_like(scores_BP[:, 0], -1)))
        if hasattr(output, "unregularised"):
            self.unregularised.append(output.unregularised)

    def compute(self) -> dict[str, float]:
        label_Q = _joined(self.label)
        order = label_Q.argsort(stable=True)
        label_Q, unassigned_Q = label_Q[order], _joined(self.unassigned)[order]
        found = self._scored(_joined(self.scores)[order], unassigned_Q, label_Q)
        if len(self.unregularised):
            without = self._scored(_joined(self.unregularised)[order], unassigned_Q, label_Q)
            found |= {f"{name}_unregularised": value for name, value in without.items()}
        return {name: round(value, 6) for name, value in found.items()}

    def _scored(self, scores_QP: Tensor, unassigned_Q: Tensor, label_Q: Tensor) -> dict[str, float]:
        config = self.config
        rows = torch.arange(self.places) if config.rivals == "all" else torch.unique(label_Q).cpu()
        scores_RQ, labels_R = scores_QP.T.cpu()[rows].double(), rows.numpy()
        labels_Q = label_Q.cpu().numpy()
        if config.row_index:
            rows_with_first = torch.cat([unassigned_Q.cpu().double()[None], scores_RQ])
            scores_RQ = rows_with_first[(rows_with_first >= 0).any(1)]
            labels_R, labels_Q = np.arange(len(scores_RQ)), np.searchsorted(rows.numpy(), labels_Q)
        length = config.sequence_length
        distance_RQ = sequence_distance(distance_matrix(scores_RQ.numpy()), length)
        labels_R, labels_Q = labels_R[: len(distance_RQ)], labels_Q[: distance_RQ.shape[1]]
        numbers = [number for number in config.recall_numbers if number <= max(1, len(rows))]
        recalls = recall_at(distance_RQ, labels_R, labels_Q, numbers)
        found = {f"recall@{number}": recall for number, recall in zip(numbers, recalls, strict=True)}
        return found | {"auc_pr": precision_recall(distance_RQ, labels_R, labels_Q).area}


def _joined(parts: list[Tensor] | Tensor) -> Tensor:
    return parts if isinstance(parts, Tensor) else torch.cat(parts)


def _scores(output: Any) -> Tensor:
    scores: Tensor = output if isinstance(output, Tensor) else output[0]
    return scores
