"""Forecasting: from the last L steps of several variates, the S steps that follow.

Scores are on the standardised scale, over all windows, steps and variates at once, as papers print them.

Shapes: B batch, L look-back, S horizon, N variates, F calendar features, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuromix.core.batch import Batch
from neuromix.core.config import Config
from neuromix.core.errors import ShapeError
from neuromix.core.model import ModelConfig
from neuromix.core.registry import register_task
from neuromix.data.series.calendar import FEATURES, calendar_features
from neuromix.data.series.csv_table import Gaps, read_csv
from neuromix.data.series.splits import Protocol, part_rows, protocol_of
from neuromix.data.series.table import SeriesTable, Values
from neuromix.data.series.waves import WAVES, make_waves
from neuromix.data.series.windows import Windows
from neuromix.tasks.classification import prediction
from neuromix.training.task import Losses, Metrics, Task

TARGET = "OT"  # the column that published protocols move to the end, where there is one


@dataclass(frozen=True)
class ForecastingConfig(Config):
    """Config of Forecasting. Its data: a CSV file with a column of dates, or `waves`, a made-up series."""

    data: str = WAVES
    look_back: int = 96  # L, steps that are seen
    horizon: int = 96  # S, steps that are forecast
    # Which rows are for what, see data.series.splits; auto: by the name of the file (ETTh1, ETTm1, ...), else ratio.
    split: Literal["auto", "ett-hourly", "ett-minutely", "ratio", "solar", "pems"] = "auto"
    calendar: bool = True  # give hour, weekday, day of the month and day of the year of the look-back as well
    target: str | None = (
        None  # a column to be moved to the end; null: OT, where the split is ratio and it is there
    )
    date_column: str = ""  # "": the column named date, datetime, timestamp, time or ds
    gaps: Gaps = "refuse"  # missing rows are an error, or are passed over
    loss: Literal["mse", "mae"] = "mse"
    # Quantiles to be forecast instead of one number, such as [0.1, 0.5, 0.9], by the pinball loss; with 0.5 among them.
    quantiles: tuple[float, ...] = ()
    # What the training rows tell; found out where it is left empty. A run keeps it.
    columns: tuple[str, ...] = ()  # the variates, in order; given with empty means: those to be taken
    mean: tuple[float, ...] = ()  # of each, over the training rows
    deviation: tuple[float, ...] = ()  # of each, of the population; 1 where it would be 0

    def validate(self) -> None:
        self.require_positive("look_back", "horizon", "deviation")
        given = self.quantiles
        self.require(
            not given
            or (list(given) == sorted(set(given)) and given[0] > 0 and given[-1] < 1 and 0.5 in given),
            f"quantiles must rise within (0, 1) and have 0.5 among them, got {list(given)}",
        )
        self.require(
            not given or self.loss == "mse", "quantiles are learnt by the pinball loss; leave loss alone"
        )
        self.require(
            len(self.mean) == len(self.deviation) and len(self.mean) in (0, len(self.columns)),
            "mean and deviation need one number for each column",
        )


@register_task("forecasting")
class Forecasting(Task):
    """A batch is series [B, L, N], calendar [B, L, F] and future [B, S, N], float32, standardised by the training rows.

    The model gives [B, S, N], or [B, S, N, Q] where quantiles are asked for. The rows of a part, their order and the
    numbers that standardise them are those of the published protocols.
    """

    Config: ClassVar[type[Config]] = ForecastingConfig
    kind = "forecasting"
    score = "mse"
    higher_is_better = False

    def __init__(self, config: ForecastingConfig) -> None:
        self.protocol = protocol_of(Path(config.data).name) if config.split == "auto" else config.split
        self.table = _ordered(open_series(config), config, self.protocol)
        self.parts = part_rows(
            self.protocol, len(self.table), config.look_back, config.horizon, self.table.name
        )
        super().__init__(_with_statistics(config, self.table, self.parts["train"]))

    def notes(self) -> list[str]:
        counts = ", ".join(f"{len(self.data(part))} {part}" for part in self.parts)
        return [f"{self.table.name}, split as {self.protocol}: {counts} windows"]

    def data(self, split: str, *, augment: bool = False) -> Windows:
        return self.windows(self.table.rows(self.parts[split].start, self.parts[split].stop))

    def windows(self, table: SeriesTable) -> Windows:
        """The windows of a table in the units of the data."""
        config: ForecastingConfig = self.config
        values_RN = standardised(table.values, config)
        calendar_RF = calendar_features(table.times) if config.calendar else None
        return Windows(values_RN, calendar_RF, config.look_back, config.horizon)

    def training(self) -> dict[str, Any]:
        """As the field trains: Adam at a low rate that halves, for few epochs, until validation gets no better."""
        return {
            "epochs": 10,
            "patience": 3,
            "batch_size": 32,
            "lr": 1e-4,
            "schedule": "halving",
            "warmup": 0.0,
            "weight_decay": 0.0,
            "clip_norm": None,
            "threads": 1,
        }

    def prepare(self, config: ModelConfig) -> dict[str, Any]:
        """Look-back, horizon and the numbers of variates, calendar features and quantiles, where the model has them."""
        known = {
            "look_back": self.config.look_back,
            "horizon": self.config.horizon,
            "variates": len(self.config.columns),
            "calendar": len(FEATURES) if self.config.calendar else 0,
            "quantiles": len(self.config.quantiles),
        }
        return {name: value for name, value in known.items() if hasattr(config, name)}

    def loss(self, output: Any, batch: Batch) -> Losses:
        forecast, future_BSN = self._forecast(output, batch), batch.tensor("future")
        if self.config.quantiles:
            return {"pinball": pinball(forecast, future_BSN, self.config.quantiles).mean()}
        how = F.mse_loss if self.config.loss == "mse" else F.l1_loss
        return {self.config.loss: how(forecast, future_BSN)}

    def metrics(self) -> Metrics:
        return _Scores(self.config.quantiles)

    def _forecast(self, output: Any, batch: Batch) -> Tensor:
        forecast, shape = prediction(output), tuple(batch.tensor("future").shape)
        shape += (len(self.config.quantiles),) if self.config.quantiles else ()
        if forecast.shape != shape:
            raise ShapeError(
                f"the model gives {list(forecast.shape)}, the data need a forecast {list(shape)}: "
                f"[batch, horizon, variates{', quantiles' if self.config.quantiles else ''}]"
            )
        return forecast


def open_series(config: ForecastingConfig) -> SeriesTable:
    """The table that a config names.

    Raises:
        DataError, MissingExtraError: see data.series.csv_table.read_csv.
    """
    if config.data == WAVES:
        return make_waves()
    return read_csv(config.data, date_column=config.date_column, gaps=config.gaps)


def standardised(values_RN: Values, config: ForecastingConfig) -> Tensor:
    """(values - mean) / deviation: float32."""
    return torch.from_numpy((values_RN - np.array(config.mean)) / np.array(config.deviation)).float()


def original(values_RN: Values, config: ForecastingConfig) -> Values:
    """Undoes `standardised`."""
    values: Values = values_RN * np.array(config.deviation) + np.array(config.mean)
    return values


def pinball(forecast_BSNQ: Tensor, future_BSN: Tensor, quantiles: tuple[float, ...]) -> Tensor:
    """max(q (y - f_q), (q - 1)(y - f_q)) for each quantile q: [B, S, N, Q]. It is least where P(y < f_q) = q."""
    q_Q = torch.tensor(quantiles, device=future_BSN.device, dtype=forecast_BSNQ.dtype)
    miss_BSNQ = future_BSN[..., None] - forecast_BSNQ
    return torch.maximum(q_Q * miss_BSNQ, (q_Q - 1) * miss_BSNQ)


class _Scores:
    """mse and mae of the forecast, which is the median where there are quantiles; then also crps and coverage.

    crps is twice the mean pinball loss, the usual approximation by quantiles; coverage is the share of values between
    the lowest and the highest quantile.
    """

    def __init__(self, quantiles: tuple[float, ...]) -> None:
        from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError

        self._quantiles = quantiles
        self._errors = {"mse": MeanSquaredError(), "mae": MeanAbsoluteError()}
        self._spread = {"crps": MeanMetric(), "coverage": MeanMetric()} if quantiles else {}

    def to(self, device: torch.device) -> None:
        for metric in (*self._errors.values(), *self._spread.values()):
            metric.to(device)

    def update(self, output: Any, batch: Batch) -> None:
        forecast, future_BSN = prediction(output).float(), batch.tensor("future")
        middle_BSN = forecast
        if self._quantiles:
            middle_BSN = forecast[..., self._quantiles.index(0.5)]
            inside_BSN = (forecast[..., 0] <= future_BSN) & (future_BSN <= forecast[..., -1])
            self._spread["crps"].update(2 * pinball(forecast, future_BSN, self._quantiles))
            self._spread["coverage"].update(inside_BSN.float())
        for metric in self._errors.values():
            metric.update(middle_BSN.contiguous(), future_BSN)

    def compute(self) -> dict[str, float]:
        found = {**self._errors, **self._spread}
        return {name: round(float(metric.compute()), 6) for name, metric in found.items()}


def _ordered(table: SeriesTable, config: ForecastingConfig, protocol: Protocol) -> SeriesTable:
    """The variates that are wanted, in the order of the protocol."""
    if config.columns:
        return table.select(config.columns)
    if config.target is not None:
        return table.with_last(config.target)
    return table.with_last(TARGET) if protocol == "ratio" and TARGET in table.columns else table


def _with_statistics(config: ForecastingConfig, table: SeriesTable, train: range) -> ForecastingConfig:
    """The config with columns, means and deviations of the training rows, where it has none yet."""
    if config.mean:
        return config
    train_RN = table.rows(train.start, train.stop).values
    deviation_N = train_RN.std(0)
    return config.replace(
        columns=table.columns,
        mean=tuple(train_RN.mean(0).tolist()),
        deviation=tuple(np.where(deviation_N == 0, 1.0, deviation_N).tolist()),
    )
