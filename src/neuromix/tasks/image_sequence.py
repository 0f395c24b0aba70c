"""Images as several tasks, one after another: their pixels permuted, or their classes split among the tasks.

Shapes: B batch, C channels, H W image, K outputs of the model, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ConfigError
from neuromix.core.registry import register_task
from neuromix.data.dataset import Dataset
from neuromix.data.images import ImageDataset
from neuromix.data.splits import Rows
from neuromix.tasks.classification import prediction
from neuromix.tasks.image_classification import ImageClassification, ImageClassificationConfig
from neuromix.training.task import Losses, Metrics
from neuromix.training.task_sequence import Scenario, SequenceReport, TaskSequence


@dataclass(frozen=True)
class ImageSequenceConfig(ImageClassificationConfig):
    """Config of ImageSequence. Its data: see `data.images`."""

    change: Literal["permuted", "split"] = "permuted"  # what makes the tasks: see ImageSequence
    tasks: int | None = None  # None: 3 permutations, or a task for every two classes
    # What is known of a sample, see training.task_sequence; auto: domain for permuted, task for split classes.
    scenario: Literal["auto", "task", "domain", "class"] = "auto"
    permutation_seed: int = 0
    augmentation: str = "none"

    def validate(self) -> None:
        super().validate()
        self.require(self.tasks is None or self.tasks > 0, f"tasks must be positive, got {self.tasks}")
        self.require(self.permutation_seed >= 0, "permutation_seed must be 0 or more")
        self.require(self.mixup == self.cutmix == 0, "mixup and cutmix mix classes of tasks: leave them at 0")


class Part(NamedTuple):
    """What one task is made of."""

    classes: tuple[int, ...]  # of the images
    outputs: tuple[int, ...]  # of the model, for each of these classes
    permutation_P: Tensor | None  # where each pixel comes from; None: as it is


@register_task(
    "image-sequence",
    variants={
        "permuted-images": {},
        "split-images": {"change": "split"},
        "permuted-digits": {"data": "digits"},
        "split-digits": {"data": "digits", "change": "split"},
    },
)
class ImageSequence(TaskSequence, ImageClassification):
    """A batch is image [B, C, H, W], label [B] int64 (an output of the model) and task [B]; logits are [B, K].

    permuted: each task has all images and classes, with the pixels in another order; the first has them as they are.
    split: each task has some of the classes, in their order. In the scenarios "task" and "class" the model has outputs
    for the classes of each task; the loss is over those of the sample's task, or over all classes seen so far.
    """

    Config: ClassVar[type[Config]] = ImageSequenceConfig

    def __init__(self, config: ImageSequenceConfig) -> None:
        super().__init__(config)
        permuted = config.change == "permuted"
        scenario: Scenario = (
            config.scenario if config.scenario != "auto" else "domain" if permuted else "task"
        )
        self.parts = _parts(config, scenario, self.classes, self.images.height * self.images.width)
        self.names = _output_names(self.parts, self.names)
        self.begin([self._title(number) for number in range(len(self.parts))], scenario)

    def data(self, split: str, *, augment: bool = False) -> Dataset:
        images = self.images.split(split, self._policy() if augment else None)
        limit = self.per_class if split == "train" else None
        return _Samples(images, [(number, self.parts[number]) for number in self.numbers], limit)

    def loss(self, output: Any, batch: Batch) -> Losses:
        """Cross-entropy over the outputs that the scenario allows."""
        logits_BK, label_B = self._logits(output), batch.tensor("label")
        agnostic = self.scenario == "class"
        allowed_BK = self.allowed(batch, logits_BK, agnostic=agnostic)
        log_BK = logits_BK.masked_fill(~allowed_BK, -torch.inf).log_softmax(1)
        right_B = log_BK.gather(1, label_B[:, None])[:, 0]
        mean_B = log_BK.masked_fill(~allowed_BK, 0).sum(1) / allowed_BK.sum(1)
        smoothing = self.config.label_smoothing
        return {"cross_entropy": -((1 - smoothing) * right_B + smoothing * mean_B).mean()}

    def allowed(self, batch: Batch, logits_BK: Tensor, *, agnostic: bool) -> Tensor:
        """Which outputs a sample may be taken for, [B, K]: those of its task, or of all tasks seen so far."""
        table_NK = torch.zeros(len(self), logits_BK.shape[1], dtype=torch.bool)
        for number, part in enumerate(self.parts):
            known = self.parts[: self.seen] if agnostic else (part,)
            table_NK[number, [output for each in known for output in each.outputs]] = True
        return table_NK.to(logits_BK.device)[batch.tensor("task")]

    def metrics(self) -> Metrics:
        return _Scores(self)

    def accuracies(self) -> _Accuracies:
        return _Accuracies(self)

    def _title(self, number: int) -> str:
        part, names = self.parts[number], self.images.classes
        if part.permutation_P is not None or self.config.change == "permuted":
            return f"permutation {number}"
        return f"classes {', '.join(names[c] for c in part.classes)}"


class _Samples:
    """The images of some tasks, one task after the other."""

    def __init__(
        self, images: ImageDataset, parts: Sequence[tuple[int, Part]], per_class: int | None
    ) -> None:
        self.images, self.parts = images, parts
        labels = images.source.labels[images.splits[images.part]]
        self.rows = [_rows(labels, part.classes, per_class) for _, part in parts]
        self.ends = np.cumsum([len(rows) for rows in self.rows])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Tensor | int]:
        """The image, its output and its task."""
        place = int(np.searchsorted(self.ends, index, side="right"))
        rows, (number, part) = self.rows[place], self.parts[place]
        found = self.images.sample(int(rows[index - self.ends[place]]), generator)
        image_CHW, label = found["image"], part.outputs[part.classes.index(int(found["label"]))]
        assert isinstance(image_CHW, Tensor)
        if part.permutation_P is not None:
            image_CHW = image_CHW.flatten(1)[:, part.permutation_P].view_as(image_CHW)
        return {"image": image_CHW, "label": label, "task": number}


class _Accuracies:
    """Right answers on each task of a part; see `training.task_sequence.TaskAccuracies`."""

    def __init__(self, sequence: ImageSequence) -> None:
        from torchmetrics import MeanMetric

        self.sequence = sequence
        self._means = {kind: [MeanMetric() for _ in sequence.numbers] for kind in SequenceReport.KINDS}

    def to(self, device: torch.device) -> None:
        for means in self._means.values():
            for mean in means:
                mean.to(device)

    def update(self, output: Any, batch: Batch) -> None:
        logits_BK, label_B, task_B = prediction(output).float(), batch.tensor("label"), batch.tensor("task")
        for kind, means in self._means.items():
            allowed_BK = self.sequence.allowed(batch, logits_BK, agnostic=kind == "task_agnostic")
            right_B = logits_BK.masked_fill(~allowed_BK, -torch.inf).argmax(1) == label_B
            for number, mean in zip(self.sequence.numbers, means, strict=True):
                mean.update(right_B.float(), weight=(task_B == number).float())

    def compute(self) -> dict[str, list[float]]:
        """The share of right answers on each task of the part."""
        return {kind: [round(float(m.compute()), 6) for m in means] for kind, means in self._means.items()}


class _Scores:
    """accuracy: the mean over the tasks of that which the scenario asks for; and the other one, where they differ."""

    def __init__(self, sequence: ImageSequence) -> None:
        self.scenario, self._accuracies = sequence.scenario, sequence.accuracies()

    def to(self, device: torch.device) -> None:
        self._accuracies.to(device)

    def update(self, output: Any, batch: Batch) -> None:
        self._accuracies.update(output, batch)

    def compute(self) -> dict[str, float]:
        each = self._accuracies.compute()
        means = {kind: round(sum(values) / len(values), 6) for kind, values in each.items()}
        main, other = SequenceReport.KINDS if self.scenario == "task" else SequenceReport.KINDS[::-1]
        return {"accuracy": means[main]} | (
            {} if self.scenario == "domain" else {f"{other}_accuracy": means[other]}
        )


def _parts(config: ImageSequenceConfig, scenario: Scenario, classes: int, pixels: int) -> list[Part]:
    if config.change == "permuted":
        groups = [tuple(range(classes))] * (config.tasks or 3)
        permutations = _permutations(len(groups), pixels, config.permutation_seed)
    else:
        groups = _split_classes(classes, config.tasks, scenario)
        permutations = [None] * len(groups)
    ends = np.cumsum([len(group) for group in groups]).tolist()
    starts = [0] * len(groups) if scenario == "domain" else [0, *ends[:-1]]
    return [
        Part(group, tuple(range(start, start + len(group))), permutation)
        for group, start, permutation in zip(groups, starts, permutations, strict=True)
    ]


def _permutations(count: int, pixels: int, seed: int) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    return [None, *(torch.randperm(pixels, generator=generator) for _ in range(count - 1))]


def _split_classes(classes: int, tasks: int | None, scenario: Scenario) -> list[tuple[int, ...]]:
    """The classes in groups of equal size, but for the last ones, which may be one smaller.

    Raises:
        ConfigError: too many tasks, or groups of unlike size where the tasks share their outputs.
    """
    tasks = max(1, classes // 2) if tasks is None else tasks
    least = 1 if scenario == "class" else 2
    if tasks * least > classes:
        raise ConfigError(
            f"{classes} classes make at most {classes // least} tasks of {least} or more, not {tasks}: lower task.tasks"
        )
    if scenario == "domain" and classes % tasks:
        raise ConfigError(
            f'scenario "domain" shares outputs among tasks: {classes} classes cannot be split evenly among {tasks}'
        )
    return [tuple(group.tolist()) for group in np.array_split(np.arange(classes), tasks)]


def _output_names(parts: Sequence[Part], names: Sequence[str]) -> tuple[str, ...]:
    """A name for each output: that of its class, or of all classes that share it."""
    found: dict[int, list[str]] = {}
    for part in parts:
        for label, output in zip(part.classes, part.outputs, strict=True):
            found.setdefault(output, []).append(names[label])
    return tuple("/".join(dict.fromkeys(found[output])) for output in sorted(found))


def _rows(labels: Rows, classes: Sequence[int], per_class: int | None) -> Rows:
    """The places of these classes, at most so many of each: the first ones."""
    if per_class is None:
        return np.flatnonzero(np.isin(labels, classes))
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in classes]))
