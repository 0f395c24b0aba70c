"""One Legendre memory unit for a long series, such as the pixels of an image one after the other (Liu et al., 2024).

The nets of the LMUFormer paper for permuted sequential MNIST: a memory of the whole series and one layer that reads it.

Shapes: L steps of a series (T, time first), B batch, N channels, S channels of the stem, H hidden units, K classes.
Default values: those for the 784 pixels of a digit.
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
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.registry import register_model
from neuromix.layers.chance import Dropout
from neuromix.layers.look_ahead import StepNorm
from neuromix.layers.running_mean import RunningMean
from neuromix.mixers.lmu import LegendreMemory
from neuromix.models.audio.lmuformer import PAPER, TimeFirst
from neuromix.neurons.neuron import make_neuron


@dataclass(frozen=True)
class LMUSeriesConfig(ModelConfig):
    """Config of LMUSeries."""

    in_channels: int = 1  # N
    stem: int | None = 3  # S, of a linear layer with batch-norm and ReLU before the memory; null: none
    order: int = 468  # of the memory
    theta: float = 784.0  # steps that it holds
    hidden: int = 346  # H
    neuron: Spec | None = None  # in the place of ReLU; null: a net without spikes
    # What is read after each step: the mean of the hidden units so far, or what they are now.
    reads: str = "mean"
    dropout: float = 0.4
    num_classes: int = 10

    def validate(self) -> None:
        self.require_positive("in_channels", "order", "theta", "hidden", "num_classes")
        self.require(self.stem is None or self.stem > 0, f"stem must be positive, got {self.stem}")
        self.require(self.reads in ("mean", "last"), f"reads must be mean or last, got {self.reads!r}")
        self.require_within(0, 1, "dropout")

    def activation(self) -> nn.Module:
        """ReLU, or a layer of neurons."""
        return nn.ReLU() if self.neuron is None else make_neuron(self.neuron)


_SPIKING = {"stem": None, "neuron": "lif", "reads": "last", "dropout": 0.5}
_NANO = {"order": 32, "theta": 64.0, "hidden": 64, "dropout": 0.0}


@register_model(
    "lmu_series",
    paper=PAPER,
    tasks=("series-classification",),
    family="linear",
    provenance="reconstructed",
    variants={
        "lmu_psmnist": {},
        "spiking_lmu_psmnist": _SPIKING,
        "lmu_series_nano": _NANO,
        "spiking_lmu_series_nano": {**_SPIKING, **_NANO},
    },
    tiny={**_NANO, "order": 5, "hidden": 8, "theta": 8.0, "num_classes": 3, "in_channels": 2, "dropout": 0.1},
)
class LMUSeries(Model):
    """Series [B, L, N] to logits [B, K]: u = f(w x), h = f(W [memory of u; x]) with f ReLU or neurons."""

    Config: ClassVar[type[ModelConfig]] = LMUSeriesConfig
    inputs = (Field("series", "BLN"),)
    stream_axis = 0

    def __init__(self, config: LMUSeriesConfig) -> None:
        super().__init__(config)
        channels = config.stem or config.in_channels
        self.stem: nn.Module = nn.Identity()
        if config.stem is not None:
            self.stem = nn.Sequential(nn.Linear(config.in_channels, channels), StepNorm(channels), nn.ReLU())
        self.encode_series = nn.Sequential(nn.Linear(channels, 1), config.activation())
        self.memory = TimeFirst(LegendreMemory(config.order, config.theta))
        self.combine = nn.Sequential(nn.Linear(config.order + channels, config.hidden), config.activation())
        self.reads: nn.Module = RunningMean() if config.reads == "mean" else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, config.num_classes)

    def encode(self, *inputs: Tensor) -> Tensor:
        (x_BLN,) = inputs
        channels = self.config.in_channels
        if (
            x_BLN.dim() != 3
            or x_BLN.shape[2] != channels
            or not x_BLN.is_floating_point()
            or not x_BLN.shape[1]
        ):
            raise ShapeError(
                f"expected a floating-point tensor [B, L, {channels}] with L 1 or more, "
                f"got {x_BLN.dtype} {list(x_BLN.shape)}"
            )
        return x_BLN.transpose(0, 1)

    def forward_steps(self, x: Tensor) -> Tensor:
        """Steps [T, B, N] to the logits after each, [T, B, K]."""
        x_TBS = self.stem(x)
        m_TBC = self.memory(self.encode_series(x_TBS))
        h_TBH = self.combine(torch.cat([m_TBC, x_TBS], 2))
        y_TBK: Tensor = self.head(self.dropout(self.reads(h_TBH)))
        return y_TBK

    def readout(self, y: Tensor) -> Tensor:
        """The logits after the last step."""
        last_BK: Tensor = y[-1]
        return last_BK

    @classmethod
    def task_values(cls, config: Any) -> Mapping[str, Any]:
        return {"label_smoothing": 0.0}

    def example(self, batch_size: int, generator: Generator | None = None) -> Batch:
        shape = (batch_size, 8, self.config.in_channels)
        return Batch({"series": torch.randn(shape, generator=generator)})
