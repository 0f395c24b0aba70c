"""Forecasting: statistics, losses, scores, and what a run keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from neuromix.core import registry
from neuromix.core.batch import Batch
from neuromix.core.errors import ConfigError, DataError, ShapeError
from neuromix.data.series import read_csv
from neuromix.tasks.forecasting import original, pinball, standardised
from neuromix.training.api import evaluate_run, train
from neuromix.training.recipe import Request, new_recipe
from neuromix.training.run_folder import RunFolder
from tests.data.series.files import write_series

SMALL = {"look_back": 12, "horizon": 4}


@pytest.fixture
def path(tmp_path):
    return str(write_series(tmp_path / "s.csv", 300, columns=("OT", "a", "b")))


def task_of(path, **options):
    return registry.build("task", ["forecasting", {"data": path, **SMALL, **options}])


def batch_of(future, **fields):
    return Batch({"future": future, **fields})


def test_values_are_standardised_by_the_training_rows(path):
    task = task_of(path)
    assert task.config.columns == ("a", "b", "OT")  # the target is moved to the end
    train_RN = read_csv(path).select(("a", "b", "OT")).values[:210]
    np.testing.assert_allclose(task.config.mean, train_RN.mean(0), rtol=1e-12)
    np.testing.assert_allclose(task.config.deviation, train_RN.std(0), rtol=1e-12)
    values_RN = task.data("train").values_RN.double()
    torch.testing.assert_close(values_RN.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        values_RN.var(0, correction=0), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0
    )
    back = original(standardised(train_RN, task.config).double().numpy(), task.config)
    np.testing.assert_allclose(back, train_RN, atol=1e-4)


def test_a_constant_column_does_no_harm(tmp_path):
    lines = [f"2020-01-01 {hour:02}:00:00,5,{hour}" for hour in range(24)]
    (tmp_path / "s.csv").write_text("date,a,b\n" + "\n".join(lines))
    task = task_of(str(tmp_path / "s.csv"), look_back=2, horizon=1)
    assert task.config.deviation[0] == 1 and not task.data("test").values_RN[:, 0].any()


def test_columns_and_target_can_be_chosen(path):
    assert task_of(path, target="a").config.columns == ("OT", "b", "a")
    assert task_of(path, columns=["b"]).config.columns == ("b",)
    assert task_of(path, split="pems").config.columns == ("OT", "a", "b")
    with pytest.raises(DataError, match="no column 'c'"):
        task_of(path, target="c")


def test_the_split_sizes_are_told(path):
    assert task_of(path).notes() == ["s.csv, split as ratio: 195 train, 27 validation, 57 test windows"]


def test_calendar_features_can_be_left_out(path):
    assert task_of(path).data("train").sample(0, torch.Generator())["calendar"].shape == (12, 4)
    assert "calendar" not in task_of(path, calendar=False).data("train").sample(0, torch.Generator())


def test_scores_are_means_over_everything_at_once(path):
    metrics, generator = task_of(path).metrics(), torch.Generator().manual_seed(0)
    forecasts = [torch.randn(size, 4, 3, generator=generator) for size in (5, 2)]
    futures = [torch.randn(size, 4, 3, generator=generator) for size in (5, 2)]
    for forecast, future in zip(forecasts, futures, strict=True):
        metrics.update(forecast, batch_of(future))
    miss = torch.cat(forecasts) - torch.cat(futures)
    found = metrics.compute()
    assert found == {
        "mse": pytest.approx(float(miss.square().mean()), abs=1e-6),
        "mae": pytest.approx(float(miss.abs().mean()), abs=1e-6),
    }


def test_losses(path):
    future = torch.randn(2, 4, 3)
    forecast = future + torch.tensor([1.0, -1.0, 3.0])
    assert task_of(path).loss(forecast, batch_of(future))["mse"] == pytest.approx(11 / 3, rel=1e-5)
    assert task_of(path, loss="mae").loss(forecast, batch_of(future))["mae"] == pytest.approx(5 / 3, rel=1e-5)


def test_a_forecast_of_another_shape_is_refused(path):
    with pytest.raises(ShapeError, match=r"gives \[2, 4\], the data need a forecast \[2, 4, 3\]"):
        task_of(path).loss(torch.zeros(2, 4), batch_of(torch.zeros(2, 4, 3)))


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_the_pinball_loss_is_least_at_the_quantile(quantile):
    values_V = torch.linspace(-1, 1, 2001)
    candidates_C = torch.linspace(-1, 1, 201)
    loss_VC = pinball(
        candidates_C[None, :, None].expand(2001, -1, -1), values_V[:, None].expand(-1, 201), (quantile,)
    )
    best = candidates_C[loss_VC.mean((0, 2)).argmin()]
    assert float(best) == pytest.approx(2 * quantile - 1, abs=0.011)


def test_quantiles_are_scored_by_their_median_and_their_spread(path):
    task = task_of(path, quantiles=[0.1, 0.5, 0.9])
    future = torch.randn(6, 4, 3)
    forecast = torch.stack([future - 1, future + 0.5, future + 1], -1)
    forecast[0, 0, 0] += 9  # one of 72 lies outside
    metrics = task.metrics()
    metrics.update(forecast, batch_of(future))
    found = metrics.compute()
    assert found["mse"] == pytest.approx((71 * 0.25 + 9.5**2) / 72, rel=1e-5)
    assert found["coverage"] == pytest.approx(71 / 72, rel=1e-5)
    loss = task.loss(forecast, batch_of(future))["pinball"]
    assert found["crps"] == pytest.approx(2 * float(loss), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"horizon": 0}, "horizon must be positive"),
        ({"look_back": -1}, "look_back must be positive"),
        ({"quantiles": [0.9, 0.5]}, "quantiles must rise"),
        ({"quantiles": [0.1, 0.9]}, "0.5 among them"),
        ({"quantiles": [0.5], "loss": "mae"}, "pinball"),
        ({"mean": [1.0], "deviation": [1.0]}, "one number for each column"),
        ({"split": "thirds"}, "split must be one of"),
    ],
)
def test_wrong_options(path, options, told):
    with pytest.raises(ConfigError, match=told):
        task_of(path, **options)


def recipe(path, model_config=None, **task_config):
    request = Request(
        "s_mamba", "forecasting", task_config={"data": path, **task_config}, model_config=model_config or {}
    )
    return new_recipe(request)[0]


def test_horizon_of_the_model_is_that_of_the_task(path):
    found = recipe(path, {"horizon": 5, "look_back": 20})
    assert (found.task.options["horizon"], found.task.options["look_back"]) == (5, 20)
    assert found.model.options["variates"] == 3 and found.model.options["calendar"] == 4
    found = recipe(path, {"look_back": 20}, horizon=6, calendar=False)
    assert (found.model.options["horizon"], found.model.options["calendar"]) == (6, 0)
    assert recipe(path, {"look_back": 20, "horizon": 3}, quantiles=[0.5]).model.options["quantiles"] == 1


def test_the_training_suits_the_field(path):
    train = recipe(path, {"horizon": 5, "look_back": 20}).train
    assert (train.epochs, train.batch_size, train.schedule, train.patience) == (10, 32, "halving", 3)
    assert train.weight_decay == 0 and train.clip_norm is None and train.warmup == 0


def test_a_run_keeps_the_statistics_of_its_training_data(path, tmp_path):
    config = {"horizon": 4, "look_back": 12, "dim": 16, "depth": 1}
    done = train("s_mamba", "forecasting", tmp_path / "run", task_config={"data": path}, model_config=config,
                 epochs=1, max_steps=3)  # fmt: skip
    assert done.test.keys() == {"mse", "mae"}
    kept = RunFolder(done.run).recipe().task.options
    assert kept["columns"] == ["a", "b", "OT"] and len(kept["mean"]) == len(kept["deviation"]) == 3
    other = write_series(tmp_path / "other.csv", 300, columns=("b", "OT", "a"), seed=5)
    other.write_text(other.read_text().replace("date,b,OT,a", "date,b,OT,a"))
    found = evaluate_run(done.run, task_config={"data": str(other)})
    assert found.scores.keys() == {"mse", "mae"}
    again = task_of(str(other), **{key: kept[key] for key in ("columns", "mean", "deviation")})
    assert list(again.config.mean) == kept["mean"] and again.table.columns == ("a", "b", "OT")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["task"][1]["mean"] == kept["mean"]


def test_the_made_up_series_needs_no_file():
    task = registry.build("task", ["forecasting", SMALL])
    assert len(task.config.columns) == 6 and len(task.data("train")) == 2785
