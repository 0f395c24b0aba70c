"""What a trained run expects after the end of a file, in the units of the file.

Shapes: L look-back, S horizon, N variates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from neuromix.core import registry
from neuromix.core.batch import collate
from neuromix.core.checkpoint import load_checkpoint
from neuromix.core.errors import ConfigError, DataError
from neuromix.core.model import Model, call
from neuromix.data.series.calendar import calendar_features, continued
from neuromix.data.series.table import SeriesTable, Values
from neuromix.tasks.classification import prediction
from neuromix.tasks.forecasting import ForecastingConfig, open_series, original, standardised
from neuromix.training.run_folder import RunFolder


@dataclass(frozen=True)
class Forecast:
    """Expected values in the units of the data.

    Attributes:
        past: the L rows that the network has seen.
        expected: the S rows that it expects next; the median where it gives quantiles.
        quantiles: the other quantiles: [S, N] each.
        truth: what came, where these rows were held back.
    """

    past: SeriesTable
    expected: SeriesTable
    quantiles: Mapping[float, Values]
    truth: SeriesTable | None = None

    def errors(self) -> dict[str, dict[str, float]]:
        """Of each variate, where the truth is known: mae and rmse, in its unit."""
        if self.truth is None:
            return {}
        miss_SN = self.expected.values - self.truth.values
        mae_N, rmse_N = np.abs(miss_SN).mean(0), np.sqrt(np.square(miss_SN).mean(0))
        return {
            name: {"mae": float(mae_N[i]), "rmse": float(rmse_N[i])}
            for i, name in enumerate(self.expected.columns)
        }


def forecast_run(run: str | Path, data: str | Path, *, backtest: bool = False) -> Forecast:
    """The forecast of a run for what follows a file.

    The run knows means and deviations of the data it was trained on; these data are not needed.

    Args:
        run: its folder.
        data: a CSV file with the columns of the training data, in any order, or `waves`.
        backtest: hold the last S rows back, and forecast these.

    Raises:
        RunError: there is no run, or it has no weights yet.
        ConfigError: it was trained for another task.
        DataError: the file cannot be read, is too short, or lacks a column.
    """
    folder = RunFolder(run)
    task = folder.recipe().task
    config = registry.find("task", task.name)[1]
    if not isinstance(config, ForecastingConfig):
        raise ConfigError(f"{run} was trained for {task.name}; a forecast needs a run of forecasting")
    config = config.replace(**{**task.options, "data": str(data)})
    table = open_series(config).select(config.columns)
    held = config.horizon if backtest else 0
    needed = max(2, config.look_back) + held
    if len(table) < needed:
        what = "look_back + horizon" if backtest else "look_back"
        raise DataError(f"{table.name} has {len(table)} rows; this needs {what} = {needed} or more")
    seen = table.rows(0, len(table) - held)
    found = forecast(load_checkpoint(folder.weights), seen, config)
    if not backtest:
        return found
    truth = table.rows(len(seen), len(table))
    return Forecast(found.past, found.expected, found.quantiles, truth)


@torch.no_grad()
def forecast(model: Model, table: SeriesTable, config: ForecastingConfig) -> Forecast:
    """What a model expects after the last row of a table of look_back rows or more."""
    past = table.rows(len(table) - config.look_back, len(table))
    sample = {"series": standardised(past.values, config)}
    if config.calendar:
        sample["calendar"] = calendar_features(past.times)
    answer = prediction(call(model.eval(), collate([sample])))[0].double().numpy()
    quantiles = config.quantiles or (0.5,)
    by_quantile = {
        q: original(answer[..., i] if config.quantiles else answer, config) for i, q in enumerate(quantiles)
    }
    times = continued(table.times, config.horizon)
    expected = SeriesTable(table.name, times, config.columns, by_quantile.pop(0.5))
    return Forecast(past, expected, by_quantile)
