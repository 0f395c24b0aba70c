"""The HTML page that `neuromix forecast --plot` writes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neuromix.data.series.table import SeriesTable
from neuromix.report import numbers
from neuromix.report.blocks import Block, Chart, Page, Section, Table, Tile, Tiles, Value
from neuromix.report.charts import Series, lines
from neuromix.tasks.forecast import Forecast

MOST = 40  # variates that are drawn


def forecast_page(name: str, found: Forecast) -> Page:
    """The page of a forecast.

    Args:
        name: of the run.
    """
    expected = found.expected
    tiles = [
        Tile("variates", numbers.count(len(expected.columns))),
        Tile("seen", f"{len(found.past)} steps", f"{_date(found.past, 0)} to {_date(found.past, -1)}"),
        Tile("forecast", f"{len(expected)} steps", f"{_date(expected, 0)} to {_date(expected, -1)}"),
    ]
    charts = [_chart(found, i) for i in range(min(MOST, len(expected.columns)))]
    sections = [
        Section("Figures", [Tiles(tiles), *_errors(found)]),
        Section("Variates", charts, intro=_intro(found)),
    ]
    held = "" if found.truth is None else ", beside what came"
    return Page(
        title=f"Forecast for {expected.name}",
        kicker="neuromix forecast",
        lead=f"What the run {name} expects after {_date(found.past, -1)}{held}.",
        sections=sections,
    )


def _intro(found: Forecast) -> str:
    told = "Values in the units of the file."
    if found.quantiles:
        low, high = min(found.quantiles), max(found.quantiles)
        told += f" The band goes from the {low:g} to the {high:g} quantile."
    more = len(found.expected.columns) - MOST
    return told + (f" {more} more variates are not drawn." if more > 0 else "")


def _chart(found: Forecast, variate: int) -> Chart:
    band = {}
    if found.quantiles:
        ends = (min(found.quantiles), max(found.quantiles))
        low, high = (found.quantiles[q][:, variate].tolist() for q in ends)
        band = {"low": low, "high": high}
    told = [Series("past", _milliseconds(found.past), _values(found.past, variate), style=2)]
    expected = found.expected
    told.append(Series("forecast", _milliseconds(expected), _values(expected, variate), style=0, **band))
    if found.truth is not None:
        told.append(Series("what came", _milliseconds(found.truth), _values(found.truth, variate), style=1))
    chart = lines(expected.columns[variate], told, x_title="", y_title="")
    layout = {**chart.layout, "xaxis": {**chart.layout["xaxis"], "type": "date"}}
    traces = [{**trace, "mode": "lines"} if "mode" in trace else trace for trace in chart.data]
    return replace(chart, data=traces, layout=layout)


def _errors(found: Forecast) -> list[Block]:
    rows = found.errors()
    if not rows:
        return []
    texts = [[name, *(f"{error[key]:.4g}" for key in ("mae", "rmse"))] for name, error in rows.items()]
    values: list[list[Value]] = [[name, error["mae"], error["rmse"]] for name, error in rows.items()]
    caption = "Errors over the rows that were held back, in the unit of each variate"
    return [Table(("Variate", "MAE", "RMSE"), texts, caption=caption, values=values, sortable=True)]


def _milliseconds(table: SeriesTable) -> list[float]:
    """The times as plotly takes them for dates: milliseconds since 1970."""
    times: list[float] = table.times.astype("datetime64[ms]").astype(np.int64).tolist()
    return times


def _values(table: SeriesTable, variate: int) -> list[float]:
    values: list[float] = table.values[:, variate].tolist()
    return values


def _date(table: SeriesTable, row: int) -> str:
    return str(table.times[row]).replace("T", " ")
