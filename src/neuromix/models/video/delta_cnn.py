"""DeltaCNN: a plain convolutional network on video, frame by frame, to put delta layers into.

It has no memory of its own: each frame is classified, and the logits of a clip are averaged. The edit "delta" adds
layers that send changes (`layers/delta.py`), the method "delta" trains with them, and the edit "delta_inference" makes
use of what does not change.

Shapes: T frames, B batch, C channels, H W map, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from neuromix.core.config import Spec
from neuromix.core.model import ModelConfig
from neuromix.core.registry import Paper, register_model
from neuromix.models.vision.vgg import VGG, Layer, VGGConfig

PAPER = Paper(
    "Training for temporal sparsity in deep neural networks, application in video processing",
    2021,
    "arXiv",
    "https://arxiv.org/abs/2107.07305",
)


@dataclass(frozen=True)
class DeltaCNNConfig(VGGConfig):
    """Config of DeltaCNN."""

    activation: Spec = Spec("relu")
    layers: tuple[Layer, ...] = (16, "A", 32, "A", 64)
    in_channels: int = 1
    time_steps: int = 1  # a clip has as many frames as it has; an image is a clip of one


@register_model(
    "delta_cnn",
    paper=PAPER,
    tasks=("video-classification",),
    family="video",
    provenance="own design",
    variants={"delta_cnn_nano": {}},
    tiny={"layers": (4, "A", 6, 6), "num_classes": 3, "time_steps": 2},
    methods=("delta",),
)
class DeltaCNN(VGG):
    """Frames [T, B, C, H, W], or an image [B, C, H, W], to logits [B, K]."""

    Config: ClassVar[type[ModelConfig]] = DeltaCNNConfig

    def __init__(self, config: DeltaCNNConfig) -> None:
        super().__init__(config)
        self.stream_axis = 0  # along the frames
