"""What a model answers on the test split, sample by sample.

Shapes: B batch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from neuromix.core.batch import Batch
from neuromix.core.model import Model
from neuromix.training.config import TrainConfig
from neuromix.training.devices import default_workers, make_fabric
from neuromix.training.evaluate import evaluate
from neuromix.training.task import Task

MOST_CLASSES = 200  # a larger confusion matrix is read by nobody


class Answers(NamedTuple):
    """The test split, sample by sample.

    Attributes:
        scores: the task's score of each sample by itself; None where that of the split is not their mean.
        confusion: [true class][answer], counts; None without classes, or with more than `MOST_CLASSES`.
    """

    scores: list[float] | None
    confusion: list[list[int]] | None


def answers(model: Model, task: Task, config: TrainConfig) -> Answers:
    """Scores a model on the test split as it is scored after its training, and keeps what it answered."""
    seen = SampleScores(task)
    table = task.confusion() if len(task.class_names()) <= MOST_CLASSES else None
    fabric = make_fabric(config)
    score = evaluate(
        model.to(fabric.device),
        task,
        "test",
        batch_size=config.batch_size,
        seed=config.seed,
        workers=default_workers(config, fabric),
        fabric=fabric,
        also=(seen,) if table is None else (seen, table),
    )[task.score]
    are_its_parts = math.isclose(sum(seen.scores) / len(seen.scores), score, rel_tol=1e-4, abs_tol=1e-6)
    return Answers(
        seen.scores if are_its_parts else None, None if table is None else table.compute().tolist()
    )


class SampleScores:
    """Gathers the score of each sample by itself, in the order of the split."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.scores: list[float] = []

    def to(self, device: torch.device) -> None:
        """Single scores are computed on the CPU."""

    def update(self, prediction: Any, batch: Batch) -> None:
        """Takes in the prediction for one batch."""
        batch = batch.to("cpu")
        for i in range(batch.size):
            metrics = self.task.metrics()
            metrics.update(_one(prediction, i, batch.size), batch.select([i]))
            self.scores.append(metrics.compute()[self.task.score])


def _one(prediction: Any, i: int, size: int) -> Any:
    """The part of a prediction that belongs to sample i of the batch, on the CPU."""

    def pick(x: Any) -> Any:
        return x[i : i + 1].cpu() if isinstance(x, Tensor) and x.dim() and len(x) == size else x

    return tree_map(pick, prediction)
