"""LMUFormer: a MetaFormer over the frames of a sound whose mixer is a Legendre memory (Liu et al., ICLR 2024).

Attention looks at all frames at once; a Legendre memory keeps the last theta of them in a state of fixed size. So the
net trains in parallel, by FFT, and then runs frame by frame. In the spiking form frames are the time steps of its
neurons as well: there is no further axis of spike time. Its answer after n frames is the mean of what all of them say.

Five convolutions look one frame ahead each: the answer for a frame is there five frames later.

Shapes: T frames (time), B batch, N features of a frame, D width, C any channels, K classes. Default values: the paper's
net for Speech Commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.config import Spec
from neuromix.core.errors import ShapeError
from neuromix.core.layout import Layout
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.registry import Paper, register_model
from neuromix.layers.block import Block
from neuromix.layers.init import truncated_normal
from neuromix.layers.look_ahead import LookAhead, LookAheadConv, StepNorm, Steps
from neuromix.layers.residual import Residual
from neuromix.layers.running_mean import RunningMean
from neuromix.mixers.lmu import LMU, LegendreMemory, LMUConfig
from neuromix.models.audio.lmuformer_layouts import analog_rules, attention_rules, layouts_of, spiking_rules
from neuromix.neurons.neuron import make_neuron

PAPER = Paper(
    "LMUFormer: Low Complexity Yet Powerful Spiking Model With Legendre Memory Units",
    2024,
    "ICLR",
    "https://arxiv.org/abs/2402.04882",
)


@dataclass(frozen=True)
class LMUFormerConfig(ModelConfig):
    """Config of LMUFormer."""

    in_channels: int = 128  # N
    dim: int = 256  # D
    depth: int = 1  # blocks
    mlp_ratio: float = 4.0  # hidden units of a channel mixer for each of the width
    order: int | None = None  # of the memory; null: D, of the spiking nets 2 D
    theta: float = 128.0  # frames that the memory holds
    num_classes: int = 35
    # Frames are given to the net as (x - mean) / deviation.
    mean: float = 0.0
    deviation: float = 1.0

    def validate(self) -> None:
        self.require_positive("in_channels", "dim", "depth", "mlp_ratio", "theta", "num_classes", "deviation")
        self.require(self.order is None or self.order > 0, f"order must be positive, got {self.order}")

    @property
    def hidden(self) -> int:
        """Hidden units of a channel mixer."""
        return int(self.dim * self.mlp_ratio)


@dataclass(frozen=True)
class SpikingLMUFormerConfig(LMUFormerConfig):
    """Config of the spiking nets."""

    neuron: Spec = Spec("lif")
    mixer_threshold: float = 0.5  # of the neurons before the mixer

    def spikes(self, **options: Any) -> nn.Module:
        """A layer of neurons."""
        return make_neuron(self.neuron.with_options(**options))


@dataclass(frozen=True)
class AttentionConfig(SpikingLMUFormerConfig):
    """Config of SpikingAttentionFormer."""

    heads: int = 16
    scale: float = 0.25  # of the product of query, key and value

    def validate(self) -> None:
        super().validate()
        self.require_positive("heads")
        self.require(
            self.dim % self.heads == 0, f"dim must be a multiple of {self.heads} heads, got {self.dim}"
        )


class Embedding(nn.Module):
    """Convolutions over time, and one around a skip that tells frames where they stand: [T, B, N] to [T, B, D]."""

    def __init__(self, layers: Steps, position: Steps) -> None:
        super().__init__()
        self.layers, self.position = layers, position
        self.skip = LookAhead(1)  # waits for the convolution in `position`

    def forward(self, x_TBN: Tensor) -> Tensor:
        x_TBD = self.layers(x_TBN)
        y_TBD: Tensor = self.skip(x_TBD) + self.position(x_TBD)
        return y_TBD


class TimeFirst(nn.Module):
    """A sequence mixer, which has its tokens on the second axis, for [T, B, D]."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x_TBD: Tensor) -> Tensor:
        y_TBD: Tensor = self.mixer(x_TBD.transpose(0, 1)).transpose(0, 1)
        return y_TBD


class SpikingLMU(nn.Module):
    """The LMU between spikes: what enters the memory and what is read from it are spikes, the memory itself is real.

    u = LIF(BN(w x)), m = LIF(BN(memory of u)), h = LIF(BN(W [m; x])): [T, B, D] to the same shape.
    """

    def __init__(self, config: SpikingLMUFormerConfig) -> None:
        super().__init__()
        dim, order = config.dim, config.order or 2 * config.dim
        self.encode, self.combine = nn.Linear(dim, 1), nn.Linear(order + dim, dim)
        self.memory = TimeFirst(LegendreMemory(order, config.theta))
        self.encode_spikes = nn.Sequential(StepNorm(1), config.spikes())
        self.memory_spikes = nn.Sequential(StepNorm(order), config.spikes())
        self.combine_spikes = nn.Sequential(StepNorm(dim), config.spikes())

    def forward(self, x_TBD: Tensor) -> Tensor:
        u_TB1 = self.encode_spikes(self.encode(x_TBD))
        m_TBC = self.memory_spikes(self.memory(u_TB1))
        h_TBD: Tensor = self.combine_spikes(self.combine(torch.cat([m_TBC, x_TBD], 2)))
        return h_TBD


class SpikingAttention(nn.Module):
    """Attention of spikes over all frames, without softmax: LIF(scale * q (k^T v)) in each head."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.heads, self.scale = config.heads, config.scale
        self.query, self.key, self.value = (
            nn.Sequential(
                nn.Linear(config.dim, config.dim, bias=False), StepNorm(config.dim), config.spikes()
            )
            for _ in range(3)
        )
        self.spikes = config.spikes(v_threshold=config.mixer_threshold)

    def forward(self, x_TBD: Tensor) -> Tensor:
        q, k, v = (
            part(x_TBD).unflatten(2, (self.heads, -1)).permute(1, 2, 0, 3)
            for part in (self.query, self.key, self.value)
        )
        y_BHTV = q @ (k.transpose(2, 3) @ v) * self.scale
        y_TBD: Tensor = self.spikes(y_BHTV.permute(2, 0, 1, 3).flatten(2))
        return y_TBD


class FrameClassifier(Model):
    """Base of these nets: embedding, blocks, a head for each frame, and the mean over the frames so far."""

    Config: ClassVar[type[ModelConfig]] = LMUFormerConfig
    inputs = (Field("audio", "BTN"),)
    stream_axis: int | None = 0

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embedding = self.make_embedding(config)
        self.blocks = nn.Sequential(
            *(
                Block(Residual(self.make_mixer(config)), Residual(self.make_channel_mixer(config)))
                for _ in range(config.depth)
            )
        )
        self.head = self.make_head(config)
        self.mean_so_far = RunningMean()
        for path, module in self.named_modules():
            if isinstance(module, nn.Linear) and path.split(".")[-1] in ("encode", "combine"):
                truncated_normal(module)

    def make_embedding(self, config: Any) -> Embedding:
        """[T, B, N] to [T, B, D]."""
        raise NotImplementedError

    def make_mixer(self, config: Any) -> nn.Module:
        """The branch of a block that looks at other frames."""
        raise NotImplementedError

    def make_channel_mixer(self, config: Any) -> nn.Module:
        """The branch of a block that looks at one frame."""
        raise NotImplementedError

    def make_head(self, config: Any) -> nn.Module:
        """[T, B, D] to logits [T, B, K]."""
        return truncated_normal(nn.Linear(config.dim, config.num_classes))

    def encode(self, *inputs: Tensor) -> Tensor:
        (x_BTN,) = inputs
        channels = self.config.in_channels
        fits = x_BTN.dim() == 3 and x_BTN.shape[2] == channels and x_BTN.is_floating_point()
        if not fits or not x_BTN.shape[1]:
            raise ShapeError(
                f"expected a floating-point tensor [B, T, {channels}] with T 1 or more, "
                f"got {x_BTN.dtype} {list(x_BTN.shape)}"
            )
        return x_BTN.transpose(0, 1)

    def forward_steps(self, x: Tensor) -> Tensor:
        """Frames [T, B, N] to the logits after each of them, [T, B, K]; streamed, after those that are complete."""
        x_TBD: Tensor = self.embedding((x - self.config.mean) / self.config.deviation)
        if not len(x_TBD):
            return x_TBD.new_zeros(0, x_TBD.shape[1], self.config.num_classes)
        y_TBK: Tensor = self.mean_so_far(self.head(self.blocks(x_TBD)))
        return y_TBK

    def readout(self, y: Tensor) -> Tensor:
        """The answer after the last frame."""
        last_BK: Tensor = y[-1]
        return last_BK

    def example(self, batch_size: int, generator: Generator | None = None) -> Batch:
        shape = (batch_size, 9, self.config.in_channels)
        return Batch({"audio": torch.randn(shape, generator=generator)})

    @classmethod
    def task_values(cls, config: Any) -> Mapping[str, Any]:
        """Log-mel frames of 10 ms, as many as the memory holds; of narrow bands at 16000 samples a second."""
        fine = {"rate": 16000, "window": 512, "hop": 160} if config.in_channels > 64 else {}
        return {
            "representation": ["log-mel", {"bands": config.in_channels, **fine}],
            "steps": int(config.theta),
        }


def _published(parameters: int, **figures: float) -> dict[str, Any]:
    return {"parameters": parameters, "scope": "trainable", **figures}


_NANO = {"in_channels": 40, "dim": 64, "theta": 64.0, "num_classes": 10, "mean": 40.0, "deviation": 20.0}
_TINY = {"in_channels": 6, "dim": 8, "mlp_ratio": 2.0, "theta": 8.0, "num_classes": 3}


@register_model(
    "lmuformer",
    paper=PAPER,
    tasks=("audio-classification",),
    family="linear",
    provenance="authors' code",
    variants={"lmu_rnn_conv1d": {}, "lmuformer_nano": _NANO},
    tiny=_TINY,
    published={"lmu_rnn_conv1d": _published(1_621_796, parameters_m=1.62, gsc=96.53)},
)
class LMUFormer(FrameClassifier):
    """Without spikes: audio [B, T, N], real features a frame, to logits [B, K]."""

    def make_embedding(self, config: LMUFormerConfig) -> Embedding:
        dim, layers = config.dim, []
        for inputs in (config.in_channels, dim, dim, dim):
            layers += [LookAheadConv(inputs, dim), nn.ReLU(), StepNorm(dim)]
        return Embedding(Steps(*layers), Steps(LookAheadConv(dim, dim)))

    def make_mixer(self, config: LMUFormerConfig) -> nn.Module:
        dim = config.dim
        memory = LMU(LMUConfig(order=config.order, theta=config.theta), dim)
        return nn.Sequential(TimeFirst(memory), nn.Linear(dim, dim), StepNorm(dim))

    def make_channel_mixer(self, config: LMUFormerConfig) -> nn.Module:
        dim, hidden = config.dim, config.hidden
        up, down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        return nn.Sequential(up, StepNorm(hidden), nn.GELU(), down, StepNorm(dim), nn.ReLU())

    @classmethod
    def layouts(cls, config: LMUFormerConfig) -> Mapping[str, Layout]:
        return layouts_of(analog_rules())


@register_model(
    "spiking_lmuformer",
    paper=PAPER,
    tasks=("audio-classification",),
    family="spiking",
    provenance="authors' code",
    variants={"slmu_rnn_ms_conv1d": {}, "spiking_lmuformer_nano": _NANO},
    tiny=_TINY,
    published={"slmu_rnn_ms_conv1d": _published(1_689_894, parameters_m=1.69, gsc=96.12)},
)
class SpikingLMUFormer(FrameClassifier):
    """Spiking, with real numbers on its skip connections (membrane shortcut): audio [B, T, N] to logits [B, K]."""

    Config: ClassVar[type[ModelConfig]] = SpikingLMUFormerConfig

    def make_embedding(self, config: SpikingLMUFormerConfig) -> Embedding:
        dim, layers = config.dim, []
        for inputs in (config.in_channels, dim, dim):
            layers += [LookAheadConv(inputs, dim), StepNorm(dim), config.spikes()]
        position = Steps(StepNorm(dim), config.spikes(), LookAheadConv(dim, dim))
        return Embedding(Steps(*layers, LookAheadConv(dim, dim)), position)

    def make_mixer(self, config: Any) -> nn.Module:
        dim = config.dim
        spikes = config.spikes(v_threshold=config.mixer_threshold)
        return nn.Sequential(StepNorm(dim), spikes, SpikingLMU(config), nn.Linear(dim, dim), StepNorm(dim))

    def make_channel_mixer(self, config: SpikingLMUFormerConfig) -> nn.Module:
        dim, hidden = config.dim, config.hidden
        up, down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        return nn.Sequential(StepNorm(dim), config.spikes(), up, StepNorm(hidden), config.spikes(), down)

    def make_head(self, config: SpikingLMUFormerConfig) -> nn.Module:
        return nn.Sequential(StepNorm(config.dim), config.spikes(), super().make_head(config))

    @classmethod
    def layouts(cls, config: Any) -> Mapping[str, Layout]:
        return layouts_of(spiking_rules(shortcut="membrane"))


@register_model(
    "spiking_lmuformer_on_spikes",
    paper=PAPER,
    tasks=("audio-classification",),
    family="spiking",
    provenance="authors' code",
    variants={"slmu_rnn_conv1d": {}},
    tiny=_TINY,
    published={"slmu_rnn_conv1d": _published(1_689_382)},
)
class SpikingLMUFormerOnSpikes(FrameClassifier):
    """Spiking, with spikes on its skip connections, which add up: audio [B, T, N] to logits [B, K]."""

    Config: ClassVar[type[ModelConfig]] = SpikingLMUFormerConfig

    def make_embedding(self, config: SpikingLMUFormerConfig) -> Embedding:
        dim, layers = config.dim, []
        for inputs in (config.in_channels, dim, dim, dim):
            layers += [LookAheadConv(inputs, dim), StepNorm(dim), config.spikes()]
        return Embedding(Steps(*layers), Steps(LookAheadConv(dim, dim), StepNorm(dim), config.spikes()))

    def make_mixer(self, config: SpikingLMUFormerConfig) -> nn.Module:
        dim = config.dim
        return nn.Sequential(SpikingLMU(config), nn.Linear(dim, dim), StepNorm(dim), config.spikes())

    def make_channel_mixer(self, config: SpikingLMUFormerConfig) -> nn.Module:
        dim, hidden = config.dim, config.hidden
        up, down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        return nn.Sequential(up, StepNorm(hidden), config.spikes(), down, StepNorm(dim), config.spikes())

    @classmethod
    def layouts(cls, config: SpikingLMUFormerConfig) -> Mapping[str, Layout]:
        return layouts_of(spiking_rules(shortcut="spikes"))


@register_model(
    "spiking_attention_former",
    paper=PAPER,
    tasks=("audio-classification",),
    family="spiking",
    provenance="authors' code",
    variants={"attn_ms_conv1d": {}},
    tiny={**_TINY, "heads": 2},
    published={"attn_ms_conv1d": _published(1_689_379)},
)
class SpikingAttentionFormer(SpikingLMUFormer):
    """What the LMU is compared with: attention in its place. It sees all frames at once, so it cannot be stepped."""

    Config: ClassVar[type[ModelConfig]] = AttentionConfig
    stream_axis = None

    def make_mixer(self, config: AttentionConfig) -> nn.Module:
        dim = config.dim
        return nn.Sequential(
            StepNorm(dim), config.spikes(), SpikingAttention(config), nn.Linear(dim, dim), StepNorm(dim)
        )

    @classmethod
    def layouts(cls, config: AttentionConfig) -> Mapping[str, Layout]:
        return layouts_of(attention_rules())
