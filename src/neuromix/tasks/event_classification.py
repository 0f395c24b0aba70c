"""Classification of event-camera recordings: one label a recording, cross-entropy, accuracy.

Shapes: B batch, T frames, C channels, H W sensor, K classes, N points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from neuromix.core import registry
from neuromix.core.batch import Batch, collate
from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.dataset import Sample
from neuromix.data.events import augment as augmentation
from neuromix.data.events.dataset import EventDataset, open_events
from neuromix.tasks.classification import Classification, ClassificationConfig, suited_training
from neuromix.training.task import Confusion, Metrics


@dataclass(frozen=True)
class EventClassificationConfig(ClassificationConfig):
    """Config of EventClassification. Its data: see `data.events.dataset.open_events`."""

    # How events become tensors: count, time, voxel, surface or cloud, see data.events.representations; or groups, see
    # data.events.grouping.
    representation: Spec = Spec("count")
    # Frames are steps of spike time, or all of them the channels of one image, which any image classifier takes.
    layout: Literal["steps", "channels"] = "steps"
    size: int | tuple[int, int] | None = None  # side, or (height, width), that addresses are brought to
    sensor: tuple[int, int] | None = None  # (height, width) of recordings whose files do not tell it
    simulation: Mapping[str, Any] = field(default_factory=dict)  # what differs, see data.events.simulated
    samples_per_class: int | None = None  # training recordings that are kept of each class; None: all
    fresh: bool = True  # train on a new simulated recording of each image in every epoch
    augmentation: str = "none"  # shift or shift-flip, see data.events.augment
    # Microseconds of a clip; None: the whole recording is one. Training takes a clip that begins anywhere; elsewhere
    # the scores of `clips` clips, evenly spread over a recording, are averaged.
    window: int | None = None
    clips: int = 4
    sort: bool = (
        False  # bring events into the order of time instead of refusing files that have them in another
    )
    skip_broken: bool = False  # leave broken recordings out, and count them

    def validate(self) -> None:
        super().validate()
        if self.samples_per_class is not None:
            self.require_positive("samples_per_class")
        augmentation.policy(self.augmentation)
        self.require_positive("clips")
        self.require(self.window is None or self.window > 0, f"window must be positive, got {self.window}")


@register_task("event-classification", variants={"events": {}, "digits-dvs": {"data": "digits-dvs"}})
class EventClassification(Classification):
    """A batch is label [B] int64 and what the representation makes of the events.

    That is image [B, T, 2, H, W] float32, a frame a time step; with the layout "channels" image [B, 2 T, H, W]; cloud,
    a Ragged of points [N, 4]; or groups [B, 3, M, K+1] of points. The model gives logits [B, K].
    """

    Config: ClassVar[type[Config]] = EventClassificationConfig
    kind = "event-classification"

    def __init__(self, config: EventClassificationConfig) -> None:
        if not config.data:
            raise ConfigError(
                "event-classification needs data: --data digits-dvs, or --data FOLDER of recordings"
            )
        self.representation = registry.build("representation", config.representation)
        self.recordings: EventDataset = open_events(
            config.data,
            representation=self.representation,
            size=config.size,
            sensor=config.sensor,
            simulation=config.simulation,
            sort=config.sort,
            skip_broken=config.skip_broken,
        )
        if config.samples_per_class is not None:
            self.recordings = self.recordings.with_few(config.samples_per_class)
        super().__init__(config, self.recordings.classes)
        self.is_image = config.layout == "channels"
        if self.is_image:
            self.kind = "image-classification"
            if self.representation.field != "image":
                raise ConfigError(f"layout channels is for frames; {config.representation.name} makes none")

    def notes(self) -> list[str]:
        left_out = self.recordings.skipped
        return [f"left out {left_out} broken recording{'s' if left_out > 1 else ''}"] if left_out else []

    def data(self, split: str, *, augment: bool = False) -> EventDataset:
        window = self.config.window
        if not augment:
            clips = 1 if window is None else self.config.clips
            return replace(self.recordings.split(split), window=window, clips=clips)
        policy = augmentation.policy(self.config.augmentation)
        part = self.recordings.split(split, policy, fresh=self.config.fresh)
        return replace(part, window=window, clips=None)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        batch = collate(samples)
        return batch.replace(image=batch.tensor("image").flatten(1, 2)) if self.is_image else batch

    def training(self) -> dict[str, Any]:
        pixels = self.recordings.height * self.recordings.width
        return suited_training(self.recordings.split("train").recordings, pixels)

    def metrics(self) -> Metrics:
        from neuromix.tasks.recording_scores import RecordingAccuracy

        return RecordingAccuracy(self.classes) if self.has_clips else super().metrics()

    def confusion(self) -> Confusion:
        from neuromix.tasks.recording_scores import RecordingConfusion

        return RecordingConfusion(self.classes) if self.has_clips else super().confusion()

    @property
    def has_clips(self) -> bool:
        """Whether a recording is scored by several clips."""
        return self.config.window is not None and self.config.clips > 1

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """Classes, and time steps, channels and size of the frames, where the model has such fields."""
        size = (self.recordings.height, self.recordings.width)
        known = {"num_classes": self.classes, **self.representation.model_values(*size)}
        if self.is_image:
            known["in_channels"] = known.get("in_channels", 1) * known.pop("time_steps", 1)
        return {name: value for name, value in known.items() if hasattr(config, name)}
