"""Retrieval between two kinds of events: find the sound that belongs to an image, and the other way round.

The model is trained on pairs of some classes. It is scored on new samples of these, and on classes that it has never
seen in either kind (zero-shot). Validation, which selects weights, has classes of the training only.

Shapes: B batch, T frames, S steps of a sound, N channels, C polarities, H W sensor, A queries, P axes of the space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.config import Config, Spec, field_types
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.audio.dataset import open_audio
from neuromix.data.dataset import Sample
from neuromix.data.events.dataset import open_events
from neuromix.data.events.heard import open_heard
from neuromix.data.pairs import Pairs, pair_rows
from neuromix.layers.contrastive import Embeddings, contrastive_loss, prototype_loss, same_class, similarity
from neuromix.tasks.audio_classification import collate_padded
from neuromix.tasks.classification import TINY, suited_training
from neuromix.training.task import Losses, Task

HEARD = "heard:"  # images that are made audible


@dataclass(frozen=True)
class CrossModalRetrievalConfig(Config):
    """Config of CrossModalRetrieval."""

    data: str = ""  # recordings of an event camera, see data.events.dataset.open_events
    sounds: str = (
        "heard:digits"  # a folder of sounds (see data.audio), or heard:IMAGES (see data.events.heard)
    )
    unseen: tuple[str, ...] = ("8", "9")  # classes that are kept from the training; at least one
    trained: tuple[str, ...] = ()  # classes of the training, at least two; (): all others
    ranks: tuple[int, ...] = (1,)  # k of the accuracies that are told
    loss: Literal["contrastive", "prototype"] = "contrastive"  # see layers.contrastive
    representation: Spec = Spec("time", {"frames": 20, "most": 1})  # of the recordings
    hearing: Spec | None = None  # representation of a folder of sounds; null: by the data
    steps: int = 40  # S that every sound is cut or filled up to
    size: int | tuple[int, int] | None = None  # side, or (height, width), of the recordings
    simulation: Mapping[str, Any] = field(default_factory=dict)  # what differs, see data.events.simulated
    skip_broken: bool = False  # leave broken recordings and sounds out

    def validate(self) -> None:
        self.require_positive("steps", "ranks")
        self.require(bool(self.ranks), "ranks needs a number, such as 1")
        self.require(bool(self.unseen), "unseen needs a class; it is what zero-shot retrieval is scored on")
        self.require(not self.trained or len(self.trained) > 1, "trained needs two classes or more")
        both = sorted({*self.unseen} & {*self.trained})
        self.require(not both, f"unseen and trained share {', '.join(both)}")


@register_task(
    "cross-modal-retrieval",
    variants={
        "retrieval": {},
        "digits-zero-shot": {"data": "digits-dvs", "trained": ("1", "2", "3", "4", "5", "6", "7")},
    },
)
class CrossModalRetrieval(Task):
    """A batch is image [B, T, C, H, W] and audio [B, S, N], both float32, and label [B], the number in `class_names`.

    The model gives Embeddings.
    """

    Config: ClassVar[type[Config]] = CrossModalRetrievalConfig
    kind = "cross-modal-retrieval"
    score = "seen_accuracy"

    def __init__(self, config: CrossModalRetrievalConfig) -> None:
        super().__init__(config)
        if not config.data:
            raise ConfigError(
                "cross-modal-retrieval needs data: --data digits-dvs, or a folder of recordings"
            )
        self.representation = registry.build("representation", config.representation)
        self.events = open_events(
            config.data,
            representation=self.representation,
            size=config.size,
            simulation=config.simulation,
            skip_broken=config.skip_broken,
        )
        self.sounds = _open_sounds(config)
        known = [name for name in self.events.classes if name in self.sounds.classes]
        self.trained = config.trained or tuple(name for name in known if name not in config.unseen)
        if len(self.trained) < 2:
            raise ConfigError(
                f"training needs two classes that both kinds of events have; there are {', '.join(known)}, without "
                f"{', '.join(config.unseen)}"
            )
        self.names = (*self.trained, *config.unseen)
        self._rows = {
            "train": self._pairs("train", self.trained),
            "validation": self._pairs("validation", self.trained),
            "test": self._pairs("test", self.names),
        }

    def _pairs(self, part: str, classes: Sequence[str]) -> Any:
        return pair_rows(self.events, self.sounds, part, classes)

    def notes(self) -> list[str]:
        left_out = self.events.skipped + getattr(self.sounds, "skipped", 0)
        return [f"left out {left_out} broken recordings"] if left_out else []

    def class_names(self) -> tuple[str, ...]:
        return self.names

    def data(self, split: str, *, augment: bool = False) -> Pairs:
        """Pairs of a split; in training a simulated recording is a new one in every epoch."""
        return Pairs(self.events.split(split, None, augment), self.sounds.split(split), self._rows[split])

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return collate_padded(samples, "audio")

    def training(self) -> dict[str, Any]:
        return suited_training(len(self._rows["train"]), TINY)

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """Sizes of the events and channels of the sounds, for the parts `first` and `second` of the model."""
        sees = self.representation.model_values(self.events.height, self.events.width)
        hears = {"in_channels": self.sounds.channels, "time_steps": self.config.steps}
        parts = {"first": sees, "second": hears}
        return {
            name: _with_known(getattr(config, name), values)
            for name, values in parts.items()
            if isinstance(getattr(config, name, None), Spec)
        }

    def loss(self, output: Any, batch: Batch) -> Losses:
        found, label_B = _embeddings(output), batch.tensor("label")
        if self.config.loss == "prototype":
            return {"prototype": _episode_loss(found, label_B)}
        scores_BB = similarity(*found)
        return {"contrastive": contrastive_loss(scores_BB, same_class(label_B, label_B))}

    def metrics(self) -> RetrievalAccuracy:
        return RetrievalAccuracy(len(self.trained), self.config.ranks)


def _open_sounds(config: CrossModalRetrievalConfig) -> Any:
    if config.sounds.startswith(HEARD):
        if config.hearing is not None:
            raise ConfigError(f"hearing is for a folder of sounds; {config.sounds} are spikes as they come")
        return open_heard(config.sounds.removeprefix(HEARD), config.steps)
    hearing = None if config.hearing is None else registry.build("audio-representation", config.hearing)
    return open_audio(
        config.sounds, representation=hearing, steps=config.steps, skip_broken=config.skip_broken
    )


def _with_known(part: Spec, values: Mapping[str, Any]) -> Spec:
    """A part of a model with those of the values that it has fields for, as JSON has them."""
    fields = field_types(registry.find("model", part.name)[0].config)
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if key in fields}
    return part.with_options(**plain)


def _embeddings(output: Any) -> Embeddings:
    if not isinstance(output, Embeddings):
        raise ShapeError(
            f"retrieval needs embeddings of both kinds of events, as resistive_contrastive gives; got "
            f"{type(output).__name__}"
        )
    return output


def _episode_loss(found: Embeddings, label_B: Tensor) -> Tensor:
    """The prototype loss of a batch: of each class every other sample is support, and the rest are queries."""
    earlier_BB = same_class(label_B, label_B).tril(-1)
    query_B = earlier_BB.sum(1) % 2 == 1
    if not query_B.any():
        raise ShapeError("a prototype loss needs two samples of a class in a batch; raise batch_size")
    stacked = [
        (torch.cat([found.first[chosen], found.second[chosen]]), label_B[chosen].repeat(2))
        for chosen in (~query_B, query_B)
    ]
    return prototype_loss(*stacked[0], *stacked[1])


class RetrievalAccuracy:
    """The share of queries for which one of the k nearest samples of the other kind has their label.

    Seen and unseen classes are searched apart: `unseen_image_to_audio_at_1`, ...; `seen_accuracy` and
    `unseen_accuracy` are the means of both directions at the first k.

    Args:
        seen: labels below are of the training.
        ranks: the numbers k.
    """

    def __init__(self, seen: int, ranks: Sequence[int]) -> None:
        from torchmetrics import CatMetric

        self.seen, self.ranks = seen, tuple(ranks)
        self._gathered = {name: CatMetric() for name in ("image", "audio", "label")}

    def to(self, device: torch.device) -> None:
        for metric in self._gathered.values():
            metric.to(device)

    def update(self, output: Any, batch: Batch) -> None:
        found = _embeddings(output)
        for name, values in (
            ("image", found.first),
            ("audio", found.second),
            ("label", batch.tensor("label")),
        ):
            self._gathered[name].update(values.float())

    def compute(self) -> dict[str, float]:
        image_AP, audio_AP, label_A = (metric.compute() for metric in self._gathered.values())
        groups = {"seen": label_A < self.seen, "unseen": label_A >= self.seen}
        scores: dict[str, float] = {}
        for group, chosen_A in groups.items():
            if not chosen_A.any():
                continue
            parts = (image_AP[chosen_A], audio_AP[chosen_A], label_A[chosen_A])
            own = _both_ways(*parts, self.ranks)
            mean = float(np.mean([own[f"{way}_at_{self.ranks[0]}"] for way in _WAYS]))
            scores[f"{group}_accuracy"] = round(mean, 6)
            scores |= {f"{group}_{name}": round(value, 6) for name, value in own.items()}
        return scores


_WAYS = ("image_to_audio", "audio_to_image")


def _both_ways(image_AP: Tensor, audio_AP: Tensor, label_A: Tensor, ranks: Sequence[int]) -> dict[str, float]:
    scores_AA = similarity(image_AP, audio_AP)
    return {
        f"{way}_at_{k}": retrieval_accuracy(scores, label_A, label_A, k)
        for way, scores in zip(_WAYS, (scores_AA, scores_AA.T), strict=True)
        for k in ranks
    }


def retrieval_accuracy(similarity_AB: Tensor, query_A: Tensor, gallery_B: Tensor, k: int = 1) -> float:
    """The share of rows of which one of the k largest columns (all, where there are fewer) has their label.

    Args:
        similarity_AB: of each query with each sample that may be found.
        query_A, gallery_B: their labels.

    Raises:
        ShapeError: k below 1, or no query.
    """
    if k < 1 or 0 in similarity_AB.shape:
        raise ShapeError(
            f"retrieval needs samples and k of at least 1, got {list(similarity_AB.shape)}, k = {k}"
        )
    nearest_Ak = similarity_AB.topk(min(k, similarity_AB.shape[1]), dim=1).indices
    right_A = (gallery_B[nearest_Ak] == query_A[:, None]).any(1)
    return float(right_A.double().mean())
