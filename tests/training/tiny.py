"""A spiking net of some hundred weights that has all that makes resuming hard: batch-norm, spikes and noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from neuromix.core.errors import ConfigError
from neuromix.core.model import Model, ModelConfig, require_image
from neuromix.core.observe import Tap
from neuromix.core.registry import register_model
from neuromix.layers.chance import Dropout
from neuromix.layers.norm import BatchNorm2d
from neuromix.neurons.lif import LIF


@dataclass(frozen=True)
class TinyConfig(ModelConfig):
    width: int = 8
    time_steps: int = 2
    dropout: float = 0.1
    in_channels: int = 1
    num_classes: int = 10
    unused: bool = False  # has a weight that gets no gradient
    blows_up: bool = False  # gives infinite logits after some training steps
    gain: float = 1.0  # of the logits
    volumes: bool = False  # has a 3-D convolution
    asks: float = 0.0  # weight of an auxiliary loss, which alone reaches a weight of its own

    def validate(self) -> None:
        self.require_positive("width", "time_steps")


@register_model("tiny_test_net", tasks=("image-classification",))
class TinyNet(Model):
    Config = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.conv = nn.Conv2d(config.in_channels, config.width, 3, stride=2, padding=1, bias=False)
        self.mix = nn.Conv2d(config.width, config.width, 2)
        self.volume = nn.Conv3d(config.width, config.width, 1) if config.volumes else None
        self.norm = BatchNorm2d(config.width)
        self.neuron = LIF(tau=2.0)
        self.dropout = Dropout(config.dropout)
        self.other_dropout = nn.Dropout(config.dropout)  # draws from PyTorch's global generator
        self.classify = nn.Linear(config.width, config.num_classes)
        self.spare = nn.Linear(2, 2) if config.unused else None
        self.code = nn.Parameter(torch.ones(config.num_classes)) if config.asks else None
        self.aux_loss = Tap("aux_loss") if config.asks else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        require_image(x_BCHW, self.config.in_channels)
        y_BCHW = self.norm(self.mix(self.conv(x_BCHW)))
        if self.volume is not None:
            y_BCHW = self.volume(y_BCHW[:, :, None])[:, :, 0]
        spikes_TBCHW = self.neuron(y_BCHW.expand(self.config.time_steps, *y_BCHW.shape))
        y_BC = self.other_dropout(self.dropout(spikes_TBCHW.mean((0, 3, 4))))
        self.steps += self.training
        if self.config.blows_up and self.steps > 5:
            y_BC = y_BC / 0
        logits_BK: Tensor = self.classify(y_BC) * self.config.gain * self.config.gain
        if self.aux_loss is not None:
            self.aux_loss(self.config.asks * (self.code - logits_BK).square().mean())
        return logits_BK


@register_model("tiny_text_net", tasks=("language",))
class TextNet(Model):
    def __init__(self, config: ModelConfig) -> None:
        raise ConfigError("never built")


def tensors(path: Path) -> dict[str, Tensor]:
    """What a weights file holds, but for the state, which has times in it."""
    return load_file(path)


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
