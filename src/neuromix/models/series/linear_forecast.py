"""LinearForecast: one linear map from the past of a variate to its future, the same for all variates.

The yardstick of every forecasting network. With `normalise` each window's mean and deviation are taken away and put
back, as the networks do.

Shapes: B batch, L look-back, S horizon, N variates, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from neuromix.core.batch import Batch
from neuromix.core.model import Field, Model, ModelConfig
from neuromix.core.registry import register_model
from neuromix.layers.window_norm import WindowNorm, require_series, split_quantiles


@dataclass(frozen=True)
class LinearForecastConfig(ModelConfig):
    """Config of LinearForecast."""

    look_back: int = 96  # L
    horizon: int = 96  # S
    variates: int = 7  # N of the data; no weight depends on it
    normalise: bool = True
    quantiles: int = 0  # Q numbers for each step and variate; 0: one, without an axis of its own

    def validate(self) -> None:
        self.require_positive("look_back", "horizon", "variates")
        self.require(self.quantiles >= 0, f"quantiles must be 0 or more, got {self.quantiles}")


@register_model(
    "linear_forecast",
    tasks=("forecasting",),
    family="linear",
    tiny={"look_back": 12, "horizon": 4, "variates": 3},
)
class LinearForecast(Model):
    """series [B, L, N] to the forecast [B, S, N], or [B, S, N, Q]."""

    Config: ClassVar[type[ModelConfig]] = LinearForecastConfig
    inputs = (Field("series", "BLN"),)

    def __init__(self, config: LinearForecastConfig) -> None:
        super().__init__(config)
        self.norm = WindowNorm(config.normalise)
        self.map = nn.Linear(config.look_back, config.horizon * max(1, config.quantiles))

    @classmethod
    def task_values(cls, config: LinearForecastConfig) -> Mapping[str, Any]:
        return {"look_back": config.look_back, "horizon": config.horizon}

    def forward(self, *inputs: Tensor) -> Tensor:
        (series_BLN,) = inputs
        require_series(series_BLN, self.config.look_back)
        x_BLN, scale = self.norm(series_BLN)
        # PyTorch would copy what is transposed for some batch sizes only.
        y_BSN: Tensor = self.map(x_BLN.mT.contiguous()).mT
        forecast: Tensor = scale.undo(split_quantiles(y_BSN, self.config.quantiles))
        return forecast

    def example(self, batch_size: int, generator: Generator | None = None) -> Batch:
        shape = (batch_size, self.config.look_back, self.config.variates)
        return Batch({"series": torch.randn(shape, generator=generator)})
