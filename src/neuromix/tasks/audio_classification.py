"""Classification of sounds: one label a recording, cross-entropy, accuracy.

Shapes: B batch, T steps, N channels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from neuromix.core import registry
from neuromix.core.batch import Batch, Ragged, collate
from neuromix.core.config import Config, Spec
from neuromix.core.errors import ConfigError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.audio.dataset import AudioDataset, open_audio
from neuromix.data.dataset import Sample
from neuromix.tasks.classification import TINY, Classification, ClassificationConfig, suited_training


@dataclass(frozen=True)
class AudioClassificationConfig(ClassificationConfig):
    """Config of AudioClassification. Its data: a folder or `lags`, see `data.audio.dataset.open_audio`."""

    # How recordings become tensors: cochlea, log-mel or bins, see data.audio.representations; null: by the data.
    representation: Spec | None = None
    steps: int | None = None  # that every recording is cut or filled up to; null: the longest of each batch
    skip_broken: bool = False  # leave broken recordings out, and count them
    # In training, the most neighbouring channels and steps of a recording that are silenced (SpecAugment).
    channel_mask: int = 0
    step_mask: int = 0

    def validate(self) -> None:
        super().validate()
        for name in ("channel_mask", "step_mask"):
            self.require(getattr(self, name) >= 0, f"{name} must be 0 or more, got {getattr(self, name)}")


@register_task("audio-classification", variants={"audio": {}})
class AudioClassification(Classification):
    """A batch is audio [B, T, N] float32, length [B] and label [B] int64; the model gives logits [B, K].

    T is the longest recording of the batch; shorter ones end with zeros, which are silence. `length` says where.
    """

    Config: ClassVar[type[Config]] = AudioClassificationConfig
    kind = "audio-classification"

    def __init__(self, config: AudioClassificationConfig) -> None:
        if not config.data:
            raise ConfigError(
                "audio-classification needs data: --data FOLDER of WAV files, of FSDD or of SHD, or --data lags"
            )
        wanted = config.representation
        self.recordings: AudioDataset = open_audio(
            config.data,
            representation=None if wanted is None else registry.build("audio-representation", wanted),
            steps=config.steps,
            skip_broken=config.skip_broken,
        )
        super().__init__(config, self.recordings.classes)

    def notes(self) -> list[str]:
        left_out = self.recordings.skipped
        return [f"left out {left_out} broken recording{'s' if left_out > 1 else ''}"] if left_out else []

    def data(self, split: str, *, augment: bool = False) -> AudioDataset:
        return self.recordings.split(split)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return collate_padded(samples, "audio")

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        x_BTN = batch.tensor("audio")
        for axis, most in ((2, self.config.channel_mask), (1, self.config.step_mask)):
            if most:
                x_BTN = silenced(x_BTN, axis, most, generator)
        return batch.replace(audio=x_BTN)

    def training(self) -> dict[str, Any]:
        return suited_training(len(self.data("train")), TINY)

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """Classes and channels, where the model has such fields."""
        known = {"num_classes": self.classes, "in_channels": self.recordings.channels}
        return {name: value for name, value in known.items() if hasattr(config, name)}


def silenced(x_BTN: Tensor, axis: int, most: int, generator: torch.Generator) -> Tensor:
    """A window of 0 to `most` neighbours on an axis set to 0, another one in each sample (Park et al., 2019)."""
    size = x_BTN.shape[axis]
    width_B, place_B = torch.rand(2, len(x_BTN), generator=generator).to(x_BTN.device)
    width_B = (width_B * (min(most, size) + 1)).floor()
    begin_B = (place_B * (size - width_B + 1)).floor()
    place_S = torch.arange(size, device=x_BTN.device)
    hidden_BS = (place_S >= begin_B[:, None]) & (place_S < (begin_B + width_B)[:, None])
    return x_BTN.masked_fill(hidden_BS.unsqueeze(3 - axis), 0)


def collate_padded(samples: Sequence[Sample], name: str) -> Batch:
    """A batch of samples whose field `name`, [T, ...], is filled with zeros at the end to the longest: [B, T, ...]."""
    rows = [torch.as_tensor(sample[name]) for sample in samples]
    others = [{key: value for key, value in sample.items() if key != name} for sample in samples]
    return collate(others).replace(**{name: Ragged.of(rows).padded()[0]})
