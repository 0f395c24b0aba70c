"""Charts from any number of series."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from neuromix.report.charts import Point, Series, bars, lines, points, stacked_bars
from neuromix.report.marks import COLOURS, colour


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


def test_colours_repeat() -> None:
    assert colour(0) == colour(COLOURS) == "var(--series-1)"


def test_series_have_a_band_where_they_say_so() -> None:
    one = Series("a", [1, 2, 3], [0.2, 0.3, None], low=[0.1, 0.2, None], high=[0.3, 0.4, None], style=4)
    band, line = lines("Accuracy", [one], x_title="", y_title="", legend=False).data
    assert band["legendgroup"] == line["legendgroup"] == "a"
    assert (band["x"], band["y"]) == ([1, 2, 2, 1], [0.1, 0.2, 0.4, 0.3])
    assert line["line"]["color"] == band["fillcolor"] == colour(4)


def test_a_wide_range_has_a_logarithmic_axis() -> None:
    def axis(values: list[float]) -> dict[str, object]:
        series = [Series("a", [1, 2], values)]
        chart = lines("Loss", series, x_title="", y_title="", may_be_log=True)
        return dict(chart.layout["yaxis"])

    assert axis([0.01, 3.0])["type"] == "log"
    assert axis([0.01, 3.0])["ticktext"][-2:] == ["20", "50"]  # type: ignore[index]
    assert "type" not in axis([0.5, 3.0])
    assert "type" not in axis([0.0, 3.0])


def test_points_tell_their_name_and_figures() -> None:
    marks = [Point("a<b>", 1.0, 0.5, 0.1, 0.0, ["size %{x}"]), Point("b", 2.0, 0.6, style=7)]
    chart = points("Score", marks, x_title="", y_title="", front=[(1.0, 0.5), (2.0, 0.6)])
    front, first, second = chart.data
    assert (front["x"], front["y"]) == ([1.0, 2.0], [0.5, 0.6])
    assert first["customdata"] == ["<b>a&lt;b&gt;</b><br>size &#37;{x}"]
    assert (first["error_x"]["visible"], first["error_y"]["visible"]) == (True, False)
    assert first["marker"]["symbol"] != second["marker"]["symbol"]
    assert second["marker"]["color"] == colour(7)
    assert "a<b> 0.500 at 1.00" in chart.description


@pytest.mark.parametrize("height", [0.0, 0.98])
def test_points_of_one_height_are_not_lost_in_a_wide_range(height: float) -> None:
    chart = points("Score", [Point("a", 1.0, height), Point("b", 2.0, height)], x_title="", y_title="")
    low, high = chart.layout["yaxis"]["range"]
    assert low < height < high <= height + 1


HOSTILE = "<b>x</b> &amp; %{hostile}<a href='javascript:alert(1)'>"


def test_names_are_shown_as_they_are() -> None:
    """Plotly reads some of HTML, and templates; none of it may come from a name."""
    series = [Series(HOSTILE, [1], [1.0])]
    for chart in (
        lines("", series, x_title="", y_title=""),
        points("", [Point(HOSTILE, 1, 1, told=[HOSTILE])], x_title="", y_title=""),
        bars("", [HOSTILE], [1.0], x_title="", groups=[HOSTILE]),
        stacked_bars("", [HOSTILE], {HOSTILE: [1.0]}, x_title=""),
    ):
        shown = [_without_groups(trace) for trace in chart.data]
        text = json.dumps([shown, chart.layout])
        assert "<a" not in text
        assert "%{hostile}" not in text
        assert "x&lt;/b&gt; &amp;amp; &#37;{hostile}" in text


def _without_groups(trace: Mapping[str, object]) -> dict[str, object]:
    """A legendgroup is compared, and never shown."""
    return {key: value for key, value in trace.items() if key != "legendgroup"}
