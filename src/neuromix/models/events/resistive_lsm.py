"""The liquid state machines of Lin et al. (Nature Computational Science, 2025): a random liquid, a trained read-out.

A recurrent spiking layer with weights that are never trained (`liquid.py`) turns a sequence of events into rates, one a
neuron, and only what reads these rates is trained: a linear classifier, or the projections of two kinds of events into
one space (`resistive_contrastive.py`). Baselines whose recurrent layer is trained through time, and a read-out of
spiking neurons, are fields of the same Config. The authors' model files are not public; equations and default values
are those of the paper and its training scripts.

Shapes: T spike time, B batch, C polarities, H W sensor, N inputs of a step, H neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.layout import Layout, rename
from neuromix.core.model import Field, Model, ModelConfig, require_image
from neuromix.core.registry import Paper, register_model
from neuromix.models.events.liquid import Liquid, LiquidConfig
from neuromix.neurons.lif import LIF

PAPER = Paper(
    "Resistive memory-based zero-shot liquid state machine for multimodal event data learning",
    2025,
    "Nature Computational Science",
    "https://arxiv.org/abs/2307.00771",
)


@dataclass(frozen=True)
class LSMConfig(ModelConfig):
    """What a liquid state machine has, whatever it is shown."""

    liquid: LiquidConfig = field(default_factory=LiquidConfig)
    time_steps: int = 50  # T, for which a single step is shown
    num_classes: int = 10  # 0: no read-out, the rates themselves
    readout: Literal["linear", "spiking"] = (
        "linear"  # of the rates, or leaky neurons that count their own spikes
    )
    readout_decay: float = 0.99  # of the spiking read-out, in [0, 1]
    readout_threshold: float = 0.3  # likewise, > 0
    head_lr: float = 10.0  # rate of the read-out as a share of the run's: the rates that it reads are small

    def validate(self) -> None:
        self.require_positive("time_steps", "readout_threshold", "head_lr")
        self.require(self.num_classes >= 0, f"num_classes must be 0 or more, got {self.num_classes}")
        self.require(self.readout == "linear" or self.num_classes > 0, "a spiking read-out needs classes")


class LSM(Model):
    """A liquid and its read-out; the kinds differ in what they make of their input, in `encode`.

    The features [B, H] are the share of the steps in which each neuron fired.
    """

    stream_axis: int | None = 0

    def __init__(self, config: LSMConfig, inputs: int) -> None:
        super().__init__(config)
        self.liquid = Liquid(config.liquid, inputs, config.time_steps)
        hidden, classes = config.liquid.hidden, config.num_classes
        self.head: nn.Module = nn.Linear(hidden, classes) if classes else nn.Identity()
        self.spiking = _readout_neuron(config) if config.readout == "spiking" else None

    def encoders(self, *inputs: Tensor) -> dict[str, tuple[Liquid, Tensor]]:
        """Each liquid with what it is shown, x_TBN, under the prefix that its Config has in the model's."""
        return {"": (self.liquid, self.encode(*inputs))}

    def features(self, *inputs: Tensor) -> Tensor:
        """Firing rates [B, H], in [0, 1].

        Raises:
            ConfigError: the read-out is spiking, and needs the spikes of every step.
        """
        if self.spiking is not None:
            raise ConfigError(
                "a spiking read-out needs the spikes of every step; only a linear one reads features"
            )
        return rates(*self.encoders(*inputs)[""])

    def from_features(self, rate_BH: Tensor) -> Tensor:
        """Logits [B, K] of firing rates; without classes the rates themselves."""
        logits_BK: Tensor = self.head(rate_BH)
        return logits_BK

    def forward_steps(self, x_TBN: Tensor) -> Tensor:
        spikes_TBH: Tensor = self.liquid(x_TBN)
        if self.spiking is None:
            return spikes_TBH
        spikes_TBK: Tensor = self.spiking(self.head(spikes_TBH))
        return spikes_TBK

    def readout(self, y: Tensor) -> Tensor:
        rate_B = y.mean(0)
        return rate_B if self.spiking is not None else self.from_features(rate_B)

    def parameter_rules(self) -> dict[str, dict[str, float]]:
        return {"head.*": {"lr_scale": self.config.head_lr, "weight_decay": 0.0}}

    @classmethod
    def layouts(cls, config: Any) -> Mapping[str, Layout]:
        """The names of public sibling code."""
        liquid = (("fc1", "liquid.input.stem"), ("fc1h", "liquid.cell.recurrent"), ("fc2", "head"))
        return {"authors": Layout(*(rename(f"{theirs}.*", f"{ours}.*") for theirs, ours in liquid))}


def rates(liquid: Liquid, x_TBN: Tensor) -> Tensor:
    """The share of the steps in which each neuron fires: [B, H], spike count / T."""
    spikes_TBH: Tensor = liquid(x_TBN)
    return spikes_TBH.mean(0)


def _readout_neuron(config: LSMConfig) -> LIF:
    return LIF(
        decay=config.readout_decay,
        v_threshold=config.readout_threshold,
        v_reset=0.0,
        decay_input=False,
        detach_reset=False,
        surrogate=("rectangle", {"width": 2 * config.liquid.lens, "closed": False}),
        compare=">",
    )


@dataclass(frozen=True)
class ResistiveLSMConfig(LSMConfig):
    """Config of ResistiveLSM."""

    in_channels: int = 2  # C, of the frames
    input_size: tuple[int, int] = (34, 34)  # (height, width) of the frames
    channel: int | None = 0  # the polarity that is seen; None: all
    crop: int | None = 16  # side of the centre that is seen, or the frame's if that is smaller; None: all

    def validate(self) -> None:
        super().validate()
        self.require_positive("in_channels", "input_size")
        self.require(self.crop is None or self.crop > 0, f"crop must be positive, got {self.crop}")
        known = self.channel is None or 0 <= self.channel < self.in_channels
        self.require(known, f"channel must be below in_channels {self.in_channels}, got {self.channel}")

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of what is seen."""
        height, width = self.input_size
        side = self.crop or max(self.input_size)
        return min(height, side), min(width, side)

    @property
    def inputs(self) -> int:
        """Inputs of a step, N."""
        height, width = self.window
        return (self.in_channels if self.channel is None else 1) * height * width


_BASELINE = {"liquid.trainable": True, "liquid.v_threshold": 0.3}
TIDIGITS = {"liquid.decay": 0.97, "liquid.v_threshold": 5.3, "liquid.const": 0.08}


def published(parameters: int, **figures: float) -> dict[str, Any]:
    return {"parameters": parameters, "scope": "trainable", **figures}


@register_model(
    "resistive_lsm",
    paper=PAPER,
    tasks=("event-classification",),
    family="spiking",
    provenance="reconstructed",
    methods=("lsm",),
    variants={
        "resistive_lsm_nmnist": {},
        "resistive_srnn_nmnist": {**_BASELINE, "liquid.const": 0.03},
        # Ours, for small sensors.
        "resistive_lsm_nano": {
            "input_size": (16, 16),
            "time_steps": 40,
            "channel": None,
            "liquid.hidden": 400,
            "liquid.const": 0.0264,
        },
    },
    tiny={
        "liquid": {"hidden": 12, "v_threshold": 2.0},
        "input_size": (6, 6),
        "crop": 4,
        "time_steps": 3,
        "num_classes": 20,
    },
    published={"resistive_lsm_nmnist": published(2010, frozen_parameters=91_200, top1=89.11)},
)
class ResistiveLSM(LSM):
    """Event frames [T, B, C, H, W], or one frame [B, C, H, W] that is shown at each step, to logits [B, K]."""

    Config: ClassVar[type[ModelConfig]] = ResistiveLSMConfig
    inputs: ClassVar[tuple[Field, ...]] = (Field("image", "BCHW"),)

    def __init__(self, config: ResistiveLSMConfig) -> None:
        super().__init__(config, config.inputs)

    def encode(self, *inputs: Tensor) -> Tensor:
        """The centre of one polarity, or of all: x_TBN.

        Raises:
            ShapeError: other channels, another size, or no step.
        """
        (image,), config = inputs, self.config
        require_image(image, config.in_channels, dims=(4, 5))
        if tuple(image.shape[-2:]) != config.input_size:
            raise ShapeError(
                f"expected frames of {list(config.input_size)} pixels, got {list(image.shape[-2:])}"
            )
        x_TBCHW = image if image.dim() == 5 else image.unsqueeze(0)
        _require_steps(x_TBCHW)
        if config.channel is not None:
            x_TBCHW = x_TBCHW[:, :, config.channel : config.channel + 1]
        for axis, side in zip((3, 4), config.window, strict=True):
            x_TBCHW = x_TBCHW.narrow(axis, (x_TBCHW.shape[axis] - side) // 2, side)
        return x_TBCHW.flatten(2)

    @classmethod
    def task_values(cls, config: Any) -> Mapping[str, Any]:
        """Whether each pixel saw an event, in frames of equal durations."""
        return {"representation": ["time", {"frames": config.time_steps, "most": 1}]}

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        shape = (batch_size, self.config.in_channels, *self.config.input_size)
        return Batch({"image": (torch.rand(shape, generator=generator) < 0.3).float()})


@dataclass(frozen=True)
class ResistiveAudioLSMConfig(LSMConfig):
    """Config of ResistiveAudioLSM."""

    field: str = "audio"  # of a batch, which it reads
    in_channels: int = 64  # N
    time_steps: int = 129  # T: longer sequences are cut, shorter ones go on in silence
    num_classes: int = 11

    def validate(self) -> None:
        super().validate()
        self.require_positive("in_channels")
        self.require(self.field.isidentifier(), f"field must be a name, got {self.field!r}")


@register_model(
    "resistive_audio_lsm",
    paper=PAPER,
    tasks=("audio-classification",),
    family="spiking",
    provenance="reconstructed",
    methods=("lsm",),
    variants={
        "resistive_lsm_ntidigits": TIDIGITS,
        "resistive_srnn_ntidigits": {
            **_BASELINE,
            "liquid.const": 1.0,
            "time_steps": 70,
            "readout": "spiking",
        },
        # Ours, for the spikes of an artificial ear.
        "resistive_audio_lsm_nano": {**TIDIGITS, "in_channels": 70, "time_steps": 60, "num_classes": 10},
    },
    tiny={
        "liquid": {"hidden": 12, "v_threshold": 2.0},
        "in_channels": 5,
        "time_steps": 3,
        "num_classes": 20,
        "readout": "spiking",
    },
    published={"resistive_lsm_ntidigits": published(2211, frozen_parameters=52_800, top1=70.79)},
)
class ResistiveAudioLSM(LSM):
    """Spikes of channels [T, B, N], or one step [B, N] that is shown at each, to logits [B, K].

    A cochlea's, or the electrodes' of a brain implant. Every sequence is brought to `time_steps`, so that a sample has
    the same features in any batch.
    """

    Config: ClassVar[type[ModelConfig]] = ResistiveAudioLSMConfig

    def __init__(self, config: ResistiveAudioLSMConfig) -> None:
        super().__init__(config, config.in_channels)
        self.inputs = (Field(config.field, "BN"),)  # type: ignore[misc]

    def encode(self, *inputs: Tensor) -> Tensor:
        """x_TBN of `time_steps` steps, or of one that stands for all.

        Raises:
            ShapeError: other channels, or no step.
        """
        (x,), config = inputs, self.config
        if x.dim() not in (2, 3) or x.shape[-1] != config.in_channels or not x.is_floating_point():
            raise ShapeError(
                f"expected floating-point {config.field} [T, B, {config.in_channels}], got {x.dtype} {list(x.shape)}"
            )
        if x.dim() == 2:
            return x.unsqueeze(0)
        _require_steps(x)
        return F.pad(x, (0, 0, 0, 0, 0, config.time_steps - len(x)))  # a negative one cuts

    @classmethod
    def task_values(cls, config: Any) -> Mapping[str, Any]:
        return {"steps": config.time_steps}

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> Batch:
        x_BN = torch.rand(batch_size, self.config.in_channels, generator=generator) < 0.3
        return Batch({self.config.field: x_BN.float()})


def _require_steps(x_T: Tensor) -> None:
    if len(x_T) == 0:
        raise ShapeError("expected a sequence of at least one time step, got an empty one")
