"""neuromix forecast, and training for it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import tests.training.tiny  # noqa: F401 (registers the nets)
from neuromix.training.api import train
from tests.data.series.files import write_lines, write_series

NET = {"horizon": 5, "look_back": 24}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with s.csv, a run on it, and one that forecasts quantiles."""
    folder = tmp_path_factory.mktemp("forecast")
    path = write_series(folder / "s.csv", 400, columns=("OT", "a"))
    for name, more in (("line", {}), ("quantiles", {"quantiles": [0.1, 0.5, 0.9]})):
        train("linear_forecast", "forecasting", folder / name, task_config={"data": str(path), **more},
              model_config=NET, epochs=2, batch_size=4, lr=0.02, schedule="constant")  # fmt: skip
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def rows_of(text):
    return list(csv.reader(text.splitlines()))


def test_the_forecast_goes_on_where_the_file_ends(run, here):
    code, out, err = run("forecast line --data s.csv")
    rows = rows_of(out)
    assert (code, err) == (0, "")
    assert rows[0] == ["date", "a", "OT"] and len(rows) == 6
    last = (here / "s.csv").read_text().splitlines()[-1].split(",")
    assert last[0] == "2016-07-17 15:00:00" and rows[1][0] == "2016-07-17 16:00:00"
    assert rows[-1][0] == "2016-07-17 20:00:00"


def test_values_are_in_the_units_of_the_file(run, run_json, here):
    found = run_json("forecast line --data s.csv --backtest")
    truth = np.array([line.split(",")[1:] for line in (here / "s.csv").read_text().splitlines()[-5:]], float)
    forecast = np.array(found["forecast"])
    assert found["columns"] == ["a", "OT"]
    # The sines are of height 2 about 10, and of height 1 about 0.
    assert np.abs(forecast - truth[:, ::-1]).max() < 0.4
    np.testing.assert_allclose(
        [found["errors"][name]["mae"] for name in ("a", "OT")],
        np.abs(forecast - truth[:, ::-1]).mean(0),
        atol=1e-6,
    )
    out = run("forecast line --data s.csv --backtest")[1]
    assert [row.split()[:2] for row in out.splitlines()] == [
        ["a", "mae"], ["a", "rmse"], ["OT", "mae"], ["OT", "rmse"]]  # fmt: skip


def test_the_training_data_are_not_needed_and_columns_may_stand_anywhere(run_json, here, tmp_path):
    lines = [line.split(",") for line in (here / "s.csv").read_text().splitlines()[-30:]]
    header = "more,a,date,OT"
    moved = write_lines(tmp_path / "new.csv", [header, *(f"7,{a},{date},{ot}" for date, ot, a in lines)])
    whole, part = (run_json(f"forecast {run} --data {data}") for run, data in
                   (("line", "s.csv"), ("line", moved)))  # fmt: skip
    (here / "s.csv").rename(here / "gone.csv")
    try:
        assert run_json(f"forecast line --data {moved}") == part == whole
    finally:
        (here / "gone.csv").rename(here / "s.csv")


def test_files_are_written(run, here, tmp_path):
    code, _, err = run(
        f"forecast quantiles --data s.csv -o {tmp_path}/o.csv --plot {tmp_path}/p.html --backtest"
    )
    assert code == 0 and f"written: {tmp_path}/o.csv" in err
    rows = rows_of((tmp_path / "o.csv").read_text())
    assert rows[0] == ["date", "a", "a_q0.1", "a_q0.9", "OT", "OT_q0.1", "OT_q0.9"]
    _, low, high = np.array([row[1:4] for row in rows[1:]], float).T
    assert (low < high).all()
    page = (tmp_path / "p.html").read_text()
    assert "what came" in page and "0.1 to the 0.9 quantile" in page and "Variates" in page


def test_one_json_object(run, here):
    code, out, _ = run("forecast quantiles --data s.csv --json")
    found = json.loads(out)
    assert code == 0 and found.keys() == {"dates", "columns", "forecast", "quantiles", "errors"}
    assert np.array(found["quantiles"]["0.9"]).shape == (5, 2) and found["errors"] == {}


def test_what_does_not_fit_is_told_in_one_line(run, here, tmp_path):
    short = write_series(tmp_path / "short.csv", 10, columns=("OT", "a"))
    lacks = write_series(tmp_path / "lacks.csv", 50, columns=("OT", "b"))
    for arguments, told in (
        (f"line --data {short}", "10 rows; this needs look_back = 24"),
        (f"line --data {lacks}", "lacks the column 'a'"),
        (f"line --data {tmp_path}/none.csv", "is not there"),
        ("nowhere --data s.csv", "holds no run"),
        ("line --data s.csv --plot p.png", ".html"),
    ):
        code, out, err = run(f"forecast {arguments}")
        assert code == 2 and out == "" and told in err and len(err.splitlines()) == 1, err


def test_a_run_of_another_task_is_refused(run, here, tmp_path):
    train("tiny_test_net", "digits", tmp_path / "digits", epochs=1, max_steps=1)
    code, _, err = run(f"forecast {tmp_path}/digits --data s.csv")
    assert code == 2 and "needs a run of forecasting" in err


def test_training_tells_the_split_and_a_bad_file(run, here, tmp_path):
    line = "train --task forecasting --model linear_forecast --set horizon=5 --set look_back=24 --epochs 1"
    code, out, err = run(f"{line} --data s.csv --out {tmp_path}/r")
    assert code == 0 and "test mse" in out
    assert "s.csv, split as ratio: 252 train, 36 validation, 76 test windows" in err
    code, _, err = run(f"{line} --data {here}/nothing.csv --out {tmp_path}/x")
    assert code == 2 and "is not there" in err and not (tmp_path / "x").exists()
    code, _, err = run("train --task forecasting --model linear_forecast --data s.csv --set horizon=0")
    assert code == 2 and "horizon must be positive" in err
