"""Scores of recordings that are seen in several clips: the answer is the class whose mean score is largest.

Shapes: B clips of a batch, R recordings, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from neuromix.core.batch import Batch
from neuromix.tasks.classification import Accuracy, ConfusionMatrix, prediction
from neuromix.training.task import Gathered


class _OfRecordings(Metric):
    """Gathers the clips of all batches, which have recording [B], int64, beside label [B]."""

    full_state_update = False
    scores: list[Tensor]
    recordings: list[Tensor]
    labels: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        for name in ("scores", "recordings", "labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, output: Any, batch: Batch) -> None:
        self.scores.append(prediction(output).detach().float())
        self.recordings.append(batch.tensor("recording"))
        self.labels.append(batch.tensor("label"))

    def whole(self) -> tuple[Tensor, Batch]:
        """Mean scores [R, K] of the recordings, and their labels."""
        scores_BK, numbers_B, labels_B = map(dim_zero_cat, (self.scores, self.recordings, self.labels))
        _, of_B, clips_R = torch.unique(numbers_B, return_inverse=True, return_counts=True)
        sums_RK = scores_BK.new_zeros(len(clips_R), scores_BK.shape[1]).index_add_(0, of_B, scores_BK)
        labels_R = labels_B.new_zeros(len(clips_R)).scatter_(0, of_B, labels_B)
        return sums_RK / clips_R[:, None], Batch({"label": labels_R})


class RecordingAccuracy(_OfRecordings):
    """`Accuracy` of recordings."""

    def compute(self) -> dict[str, float]:
        accuracy = Accuracy(self.classes)
        _update(accuracy, *self.whole())
        return accuracy.compute()


class RecordingConfusion(_OfRecordings):
    """`ConfusionMatrix` of recordings."""

    def compute(self) -> Tensor:
        matrix = ConfusionMatrix(self.classes)
        _update(matrix, *self.whole())
        return matrix.compute()


def _update(gathered: Gathered, scores_RK: Tensor, batch: Batch) -> None:
    gathered.to(scores_RK.device)
    gathered.update(scores_RK, batch)
