"""Rasters, confusion matrices and pictures."""

from __future__ import annotations

import json

import pytest

from neuromix.measure.spikes import SpikeTrain
from neuromix.report.heatmaps import confusion, raster


def test_raster_has_a_panel_a_layer() -> None:
    trains = [SpikeTrain("first", 900, [[1, 0, 0], [0, 0, 1]]), SpikeTrain("second", 2, [[0, 1], [1, 1]])]
    chart = raster("Spikes", trains)
    assert chart.data[0]["z"] == [[1, 0], [0, 0], [0, 1]]  # a row a neuron, a column a step
    ends = [chart.layout[name]["domain"] for name in ("xaxis", "xaxis2")]
    assert 0 <= ends[0][0] < ends[0][1] < ends[1][0] < ends[1][1] <= 1
    assert "first 33 %" in chart.description


@pytest.mark.parametrize("count", [1, 6, 7, 20])
def test_many_panels_stand_in_rows(count: int) -> None:
    chart = raster("Spikes", [SpikeTrain(f"layer {n}", 1, [[1]]) for n in range(count)])
    axes = [str(n + 1) if n else "" for n in range(count)]
    places = {
        (*chart.layout[f"xaxis{axis}"]["domain"], *chart.layout[f"yaxis{axis}"]["domain"]) for axis in axes
    }
    assert len(places) == count
    assert all(0 <= end <= 1 for place in places for end in place)
    assert min(right - left for left, right, _, _ in places) > 0.1


def test_confusion_shows_shares_and_counts() -> None:
    chart = confusion("Confusion", [[8, 2], [0, 0]], ["cat", "<b>dog"])
    (trace,) = chart.data
    assert trace["z"] == [[0.8, 0.2], [0.0, 0.0]], "shares of the row; of an empty one, nothing"
    assert trace["text"] == [["8", "2"], ["", ""]]
    assert trace["y"] == trace["x"] == ["cat", "&lt;b&gt;dog"]
    assert "8 of 10 answers are right" in chart.description
    assert "cat taken for <b>dog (2)" in chart.description


def test_numbers_are_left_out_where_there_is_no_room() -> None:
    counts = [[int(i == j) for i in range(30)] for j in range(30)]
    (trace,) = confusion("Confusion", counts, [str(n) for n in range(30)]).data
    assert "text" not in trace
    assert trace["customdata"] == counts


def test_names_are_shown_as_they_are() -> None:
    name = "<a href='x'>%{hostile}</a>"
    charts = [raster("", [SpikeTrain(name, 1, [[1]])]), confusion("", [[1]], [name])]
    for chart in charts:
        text = json.dumps([list(chart.data), chart.layout])
        assert "<a" not in text
        assert "%{hostile}" not in text
