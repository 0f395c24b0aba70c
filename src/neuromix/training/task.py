"""Task: where the data of a job come from, what is minimised, and how it is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import torch
from torch import Tensor

from neuromix.core.batch import Batch, collate
from neuromix.core.config import Config
from neuromix.core.model import Model, ModelConfig, call
from neuromix.data.dataset import Dataset, Sample

# Named scalars, each with its weight in it; their sum is minimised.
Losses: TypeAlias = Mapping[str, Tensor]


class Gathered(Protocol):
    """What is gathered batch by batch; its `compute`, of whatever type, joins the processes of a run."""

    def to(self, device: torch.device) -> Any:
        """Moves what is gathered to a device."""
        ...

    def update(self, prediction: Any, batch: Batch) -> None:
        """Takes in the prediction for one batch."""
        ...


class Metrics(Gathered, Protocol):
    """Scores that are gathered batch by batch."""

    def compute(self) -> dict[str, float]:
        """The scores by name."""
        ...


class Confusion(Gathered, Protocol):
    """How often each class was taken for each."""

    def compute(self) -> Tensor:
        """Counts [K, K], int64: a row a true class, a column an answer."""
        ...


class Task:
    """Base of all tasks. What is named here is all that the training loop and the evaluation know of a task.

    What a task learns from its training data and a run has to keep - means and deviations - it puts into its `config`,
    which the run folder stores as it is when the task has been built.

    Attributes:
        kind: what models list among their `tasks` when they can do it.
        score: the metric by which the best weights are chosen.
        higher_is_better: which way the score points.
    """

    Config: ClassVar[type[Config]] = Config
    kind: str = ""
    score: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True

    def __init__(self, config: Any) -> None:
        self.config: Any = config

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Builds the task; what the registry calls."""
        return cls(config)

    def notes(self) -> list[str]:
        """What a user should know of the data, a line each: images that were left out."""
        return []

    def data(self, split: str, *, augment: bool = False) -> Dataset:
        """The samples of "train", "validation" or "test"; the test split never selects anything."""
        raise NotImplementedError

    def class_names(self) -> tuple[str, ...]:
        """A name for each output of a classifier, () where the task has no classes."""
        return ()

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """A batch of samples."""
        return collate(samples)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Augmentation over a whole training batch: mixup and the like."""
        return batch

    def training(self) -> dict[str, Any]:
        """Fields of TrainConfig that suit these data better than the defaults; what the user says goes first."""
        return {}

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """The fields of a model's Config that follow from the data: classes, channels, size."""
        return {}

    def objective(self, model: Model, batch: Batch, generator: torch.Generator) -> Losses:
        """What is minimised on a training batch; by default `loss` of the model's output."""
        return self.loss(call(model, batch), batch)

    def loss(self, output: Any, batch: Batch) -> Losses:
        """The losses of an output."""
        raise NotImplementedError

    def predict(self, model: Model, batch: Batch, generator: torch.Generator) -> Any:
        """What the metrics are given; by default the model's output."""
        return call(model, batch)

    def metrics(self) -> Metrics:
        """Fresh metrics."""
        raise NotImplementedError

    def confusion(self) -> Confusion | None:
        """A fresh confusion matrix; None where the task has no classes."""
        return None


def total(losses: Losses) -> Tensor:
    """The sum that is minimised."""
    return torch.stack(list(losses.values())).sum()
