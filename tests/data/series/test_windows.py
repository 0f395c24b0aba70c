"""Splits, windows, calendar features, dates that go on, and the made-up series."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromix.core.errors import ConfigError, DataError
from neuromix.data.series import SeriesTable, Windows, calendar_features, continued, part_rows, protocol_of
from neuromix.data.series.waves import make_waves

START = np.datetime64("2019-12-30T00:00:00")


def counts(protocol, rows, look_back, horizon):
    parts = part_rows(protocol, rows, look_back, horizon, "s.csv")
    return [len(part) - look_back - horizon + 1 for part in parts.values()]


def test_published_window_counts():
    assert counts("ett-hourly", 17420, 96, 96) == [8449, 2785, 2785]
    assert counts("ett-minutely", 69680, 96, 96)[2] == 11425


def test_rows_of_each_protocol():
    def rows(protocol, count, look_back=5):
        parts = part_rows(protocol, count, look_back, 2, "s.csv")
        return [(part.start, part.stop) for part in parts.values()]

    assert rows("ett-hourly", 17420, 96) == [(0, 8640), (8640 - 96, 11520), (11520 - 96, 14400)]
    assert rows("ett-minutely", 69680, 96) == [(0, 34560), (34560 - 96, 46080), (46080 - 96, 57600)]
    assert rows("ratio", 101) == [(0, 70), (65, 81), (76, 101)]
    assert rows("solar", 101) == [(0, 70), (65, 80), (76, 101)]
    assert rows("pems", 101) == [(0, 60), (60, 80), (80, 101)]


@given(
    st.sampled_from(["ratio", "solar", "pems"]), st.integers(60, 500), st.integers(1, 6), st.integers(1, 4)
)
def test_what_is_forecast_in_one_part_is_seen_by_no_other(protocol, rows, look_back, horizon):
    parts = part_rows(protocol, rows, look_back, horizon, "s.csv")
    future = {name: set(list(part)[look_back:]) for name, part in parts.items()}
    assert not future["train"] & future["validation"] and not future["validation"] & future["test"]
    assert max(future["train"]) < min(future["validation"]) <= max(future["validation"]) < min(future["test"])
    assert all(0 <= part.start < part.stop <= rows for part in parts.values())


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("ETTh1.csv", "ett-hourly"),
        ("etth2.csv", "ett-hourly"),
        ("ETTm1.csv", "ett-minutely"),
        ("x.csv", "ratio"),
    ],
)
def test_the_protocol_of_a_name(name, protocol):
    assert protocol_of(name) == protocol


def test_too_few_rows_are_told():
    with pytest.raises(DataError, match="100 rows; the protocol ett-hourly needs 14400"):
        part_rows("ett-hourly", 100, 5, 5, "ETTh1.csv")
    with pytest.raises(DataError, match=r"s.csv has 100 rows, 70 of them for train; .* = 96 \+ 96"):
        part_rows("ratio", 100, 96, 96, "s.csv")
    with pytest.raises(ConfigError, match="given 5 and 0"):
        part_rows("ratio", 100, 5, 0, "s.csv")


def test_windows_are_stretches_one_row_apart():
    values_RN = torch.arange(20.0).view(10, 2)
    windows = Windows(values_RN, torch.arange(10.0)[:, None], 3, 2)
    assert len(windows) == 6
    sample = windows.sample(5, torch.Generator())
    assert torch.equal(sample["series"], values_RN[5:8])
    assert torch.equal(sample["future"], values_RN[8:10])
    assert sample["calendar"][:, 0].tolist() == [5, 6, 7]
    assert "calendar" not in Windows(values_RN, None, 3, 2).sample(0, torch.Generator())
    assert len(Windows(values_RN[:4], None, 3, 2)) == 0


@settings(deadline=None)
@given(st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)))
def test_calendar_features_are_those_of_the_calendar(time):
    found = calendar_features(np.array([time], "datetime64[s]"))[0]
    shares = (time.hour / 23, time.weekday() / 6, (time.day - 1) / 30, (time.timetuple().tm_yday - 1) / 365)
    torch.testing.assert_close(found, torch.tensor(shares, dtype=torch.float32) - 0.5)


def test_dates_go_on_in_their_rhythm():
    hours = START + np.arange(4) * np.timedelta64(900, "s")
    assert [str(time) for time in continued(hours, 2)] == ["2019-12-30T01:00:00", "2019-12-30T01:15:00"]
    months = np.array(["2020-01-31", "2020-02-29", "2020-03-31"], "datetime64[s]")
    assert [str(time)[:10] for time in continued(months, 2)] == ["2020-04-30", "2020-05-31"]
    with_gap = np.array(["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-09"], "datetime64[s]")
    assert [str(time)[:10] for time in continued(with_gap, 1)] == ["2020-01-10"]


def test_columns_are_chosen_by_name():
    table = SeriesTable("s.csv", START + np.arange(2), ("a", "OT", "b"), np.arange(6.0).reshape(2, 3))
    moved = table.with_last("OT")
    assert moved.columns == ("a", "b", "OT") and moved.values[0].tolist() == [0, 2, 1]
    with pytest.raises(DataError, match="lacks the column 'c'"):
        table.select(("a", "c"))
    with pytest.raises(DataError, match="no column 'c'"):
        table.with_last("c")


def test_waves_are_always_the_same():
    one, other = make_waves(300), make_waves(300)
    np.testing.assert_array_equal(one.values, other.values)
    assert one.values.shape == (300, 6) and np.isfinite(one.values).all()
    assert (one.values.std(0) > 0.1).all()
