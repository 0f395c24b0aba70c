"""cached: a task on the features that a frozen part of a model makes, each sample encoded once.

Shapes: B batch, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.model import Model, arguments
from neuromix.core.observe import draws
from neuromix.data.dataset import Dataset, Loader, Sample
from neuromix.training.chance import generator, step_seed
from neuromix.training.task import Confusion, Losses, Metrics, Task

PREFIX = "features_"  # of the stored fields: features_0, features_1 where the part gives several


@dataclass(frozen=True)
class Stored:
    """A data set that lies in memory as one batch."""

    batch: Batch

    def __len__(self) -> int:
        return self.batch.size

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        return {name: field[index] for name, field in self.batch.items()}  # type: ignore[misc]


class Cached(Task):
    """Another task, whose samples have the features of a model in the place of its inputs.

    What is trained is what the model's `from_features` runs; losses and scores are those of the task.

    Args:
        task: whose samples are encoded.
        model: with `features(*inputs)`, a tensor [B, F] or several, and `from_features(*features)`, its output.
        copies: how often the training samples are encoded, each time augmented afresh.
        batch_size: samples that are encoded at a time.
        seed: of the augmentation.
    """

    def __init__(
        self, task: Task, model: Model, copies: int = 1, batch_size: int = 64, seed: int = 0
    ) -> None:
        super().__init__(task.config)
        self.task, self.kind, self.score = task, task.kind, task.score  # type: ignore[misc]
        self.higher_is_better = task.higher_is_better  # type: ignore[misc]
        self._model, self._copies, self._batch_size, self._seed = model, copies, batch_size, seed
        self._stored: dict[str, Stored] = {}

    def data(self, split: str, *, augment: bool = False) -> Dataset:
        """The features of a split; those of the training are augmented whether or not it is asked for."""
        if split not in self._stored:
            copies = self._copies if split == "train" else 1
            self._stored[split] = Stored(
                encoded(self.task, self._model, split, copies, self._batch_size, self._seed)
            )
        return self._stored[split]

    def class_names(self) -> tuple[str, ...]:
        return self.task.class_names()

    def objective(self, model: Model, batch: Batch, generator: torch.Generator) -> Losses:
        return self.task.loss(self.predict(model, batch, generator), batch)

    def predict(self, model: Model, batch: Batch, generator: torch.Generator) -> Any:
        mark: Any = getattr(model, "mark_forward_method", None)
        if mark is not None:  # so that several processes share the gradients
            mark("from_features")
        features = [field for name, field in batch.items() if name.startswith(PREFIX)]
        return model.from_features(*features)  # type: ignore[operator]

    def metrics(self) -> Metrics:
        return self.task.metrics()

    def confusion(self) -> Confusion | None:
        return self.task.confusion()


@torch.no_grad()
def encoded(
    task: Task, model: Model, split: str, copies: int = 1, batch_size: int = 64, seed: int = 0
) -> Batch:
    """The features of every sample of a split, on the CPU, and the fields that the model does not read.

    Args:
        copies: times through the split; in the training part each is augmented afresh.
    """
    data, device = task.data(split, augment=split == "train"), next(model.parameters()).device
    loader = Loader(data, batch_size, seed=seed, collate=task.collate)
    parts: list[dict[str, Tensor]] = []
    with _in_eval_mode(model):
        for copy in range(copies):
            for number, batch in enumerate(loader.batches(copy)):
                with draws(model, generator(step_seed(seed, copy, number), device)):
                    found = model.features(*arguments(model, batch.to(device)))  # type: ignore[operator]
                features = (found,) if isinstance(found, Tensor) else found
                fields = {f"{PREFIX}{n}": x.cpu() for n, x in enumerate(features)}
                parts.append(fields | _others(model, batch))
    return Batch({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _others(model: Model, batch: Batch) -> dict[str, Tensor]:
    read = {field.name for field in model.inputs}
    return {name: x for name, x in batch.items() if name not in read and isinstance(x, Tensor)}


@contextmanager
def _in_eval_mode(model: Model) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
