"""Charts from any number of series."""

from __future__ import annotations

import pytest

from neuromix.report.charts import COLOURS, Series, SpikeTrain, bars, colour, lines, raster, stacked_bars


@pytest.mark.parametrize("count", [0, 1, 2, 10])
def test_lines(count: int) -> None:
    series = [Series(f"model {n}", [1, 2], [0.1, 0.2 + n]) for n in range(count)]
    chart = lines("Accuracy", series, x_title="epoch", y_title="")
    assert [trace["name"] for trace in chart.data] == [one.name for one in series]
    assert len({(trace["line"]["color"], trace["line"]["dash"]) for trace in chart.data}) == count
    assert all(one.name in chart.description for one in series)


def test_series_without_numbers() -> None:
    chart = lines(
        "Loss", [Series("nothing yet", [], []), Series("unknown", [1], [None])], x_title="", y_title=""
    )
    assert "nothing yet ends at nothing" in chart.description


def test_bars_keep_their_order_and_groups() -> None:
    chart = bars("Rates", ["b", "a", "c"], [0.1, 0.2, 0.3], x_title="rate", groups=["one", "two", "one"])
    assert [trace["name"] for trace in chart.data] == ["one", "two"]
    assert chart.data[0]["y"] == ["b", "c"]
    assert chart.layout["yaxis"]["categoryarray"] == ["b", "a", "c"]
    assert chart.layout["showlegend"]


def test_bars_without_groups_have_no_legend() -> None:
    assert not bars("Rates", ["a"], [1.0], x_title="rate").layout["showlegend"]


def test_stacked_bars_tell_their_sum() -> None:
    chart = stacked_bars("Energy", ["a", "b"], {"mac": [1.0, 0.0], "ac": [2.0, 4.0]}, x_title="µJ")
    assert chart.data[-1]["x"] == [3.0, 4.0]
    assert "a 3 µJ, b 4 µJ" in chart.description


def test_raster_has_a_panel_a_layer() -> None:
    trains = [SpikeTrain("first", 900, [[1, 0, 0], [0, 0, 1]]), SpikeTrain("second", 2, [[0, 1], [1, 1]])]
    chart = raster("Spikes", trains)
    assert chart.data[0]["z"] == [[1, 0], [0, 0], [0, 1]]  # a row a neuron, a column a step
    ends = [chart.layout[name]["domain"] for name in ("xaxis", "xaxis2")]
    assert 0 <= ends[0][0] < ends[0][1] < ends[1][0] < ends[1][1] <= 1
    assert "first 33 %" in chart.description


def test_colours_repeat() -> None:
    assert colour(0) == colour(COLOURS) == "var(--series-1)"
