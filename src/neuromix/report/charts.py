"""Charts from plain data: lines, points, bars and stacked bars.

Each takes any number of series, so that one figure shows two models or ten, one seed or five.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuromix.report.blocks import Chart, Mark
from neuromix.report.label_places import Box, label_places
from neuromix.report.marks import FRONT, colour, mark, plain
from neuromix.report.numbers import significant

_MOST_MARKERS = 12  # of a line


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        low, high: ends of a band around it, point by point.
        style: number of its colour, marker and dash; by default that of its place.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    style: int | None = None


@dataclass(frozen=True)
class Point:
    """One mark of a chart of points.

    Attributes:
        x_spread, y_spread: lengths of the error bars to each side; 0 without.
        told: what is shown where the mouse is on it, line by line.
        style: as of Series.
    """

    name: str
    x: float
    y: float
    x_spread: float = 0.0
    y_spread: float = 0.0
    told: Sequence[str] = ()
    style: int | None = None


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_title: str,
    y_title: str,
    y_format: str = "",
    may_be_log: bool = False,
    legend: bool = True,
    **about: Any,
) -> Chart:
    """Curves over a common axis.

    Args:
        y_format: d3 format of the y axis, e.g. ".0%".
        may_be_log: the y axis is logarithmic where values differ by more than ten times.
        legend: inside the chart; without, a Legend beside it tells its series.
        about: further fields of Chart.
    """
    traces = []
    for number, one in enumerate(series):
        look = mark(one.name, number if one.style is None else one.style)
        traces += [*_band(one, look), _line(one, look, y_format or ".3g")]
    values = [y for one in series for y in one.y if y is not None]
    layout = {
        "xaxis": {"title": {"text": x_title}, **_whole_steps(series)},
        "yaxis": {
            "title": {"text": y_title},
            "tickformat": y_format,
            **(_scale(values) if may_be_log else {}),
        },
        "hovermode": "x unified",
        "showlegend": legend and len(series) > 1,
    }
    described = "; ".join(f"{one.name} ends at {_last(one.y)}" for one in series)
    return Chart(title, traces, layout, **{"description": f"{title}: {described}.", **about})


def _line(one: Series, look: Mark, y_format: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(one.name),
        "legendgroup": one.name,
        "x": list(one.x),
        "y": list(one.y),
        "line": {"color": look.colour, "width": 2.2, "dash": look.dash},
        "marker": {"color": look.colour, "size": 7, "symbol": look.symbol, "maxdisplayed": _MOST_MARKERS},
        "hovertemplate": f"%{{y:{y_format}}}<extra>{plain(one.name)}</extra>",
    }


def _band(one: Series, look: Mark) -> list[dict[str, Any]]:
    """An area from `low` to `high`, drawn along the one and back along the other."""
    known = [
        (x, low, high)
        for x, low, high in zip(one.x, one.low, one.high, strict=False)
        if low is not None and high is not None
    ]
    if not known:
        return []
    x, low, high = zip(*known, strict=True)
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "legendgroup": one.name,
            "x": [*x, *reversed(x)],
            "y": [*low, *reversed(high)],
            "fill": "toself",
            "fillcolor": look.colour,
            "opacity": 0.16,
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]


def points(
    title: str,
    marks: Sequence[Point],
    *,
    x_title: str,
    y_title: str,
    y_format: str = "",
    front: Sequence[tuple[float, float]] = (),
    **about: Any,
) -> Chart:
    """A mark a point, with error bars; a Legend beside the chart tells them, and FRONT.

    Names stand beside the marks too, where there is room for them.

    Args:
        front: corners of the line of FRONT, which goes right and then up or down to the next.
    """
    traces = [_front(front)] if front else []
    scale = _scale([one.x for one in marks])
    places = _places(marks, is_log="type" in scale)
    for number, one in enumerate(marks):
        look = mark(one.name, number if one.style is None else one.style)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text" if places[number] else "markers",
                "name": plain(one.name),
                "legendgroup": one.name,
                "x": [one.x],
                "y": [one.y],
                "error_x": _error_bar(one.x_spread),
                "error_y": _error_bar(one.y_spread),
                "marker": {
                    "color": look.colour,
                    "size": 13,
                    "symbol": look.symbol,
                    "line": {"color": "var(--card)", "width": 1},
                },
                "text": [plain(one.name)],
                "textposition": places[number] or "top center",
                "textfont": {"color": "var(--ink)", "size": 12},
                "cliponaxis": False,
                "customdata": ["<br>".join([f"<b>{plain(one.name)}</b>", *map(plain, one.told)])],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": x_title}, **scale},
        "yaxis": {"title": {"text": y_title}, "tickformat": y_format, "zeroline": False, **_around(marks)},
        "hovermode": "closest",
        "showlegend": False,
    }
    described = "; ".join(f"{one.name} {significant(one.y)} at {significant(one.x)}" for one in marks)
    return Chart(title, traces, layout, **{"description": f"{title}: {described}.", **about})


def _front(corners: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": FRONT.name,
        "legendgroup": FRONT.name,
        "x": [x for x, _ in corners],
        "y": [y for _, y in corners],
        "line": {"color": FRONT.colour, "width": 1.5, "dash": FRONT.dash, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _places(marks: Sequence[Point], *, is_log: bool) -> list[str]:
    """Where the names go in a chart of about the page's width."""
    width, height = 960.0, 300.0

    def pixels(value: float, values: Sequence[float], length: float) -> float:
        low, high = min(values), max(values)
        return length * (0.06 + 0.88 * (value - low) / (high - low)) if high > low else length / 2

    along = math.log if is_log else float
    xs = [along(one.x) for one in marks]
    ends = [one.y + sign * one.y_spread for one in marks for sign in (-1, 1)]
    at = [(pixels(x, xs, width), pixels(one.y, ends, height)) for x, one in zip(xs, marks, strict=True)]
    bars = [
        Box(
            x - 2,
            pixels(one.y - one.y_spread, ends, height),
            x + 2,
            pixels(one.y + one.y_spread, ends, height),
        )
        for (x, _), one in zip(at, marks, strict=True)
    ]
    return label_places([one.name for one in marks], at, bars, width)


def _around(marks: Sequence[Point]) -> dict[str, Any]:
    """A range for points of one height, which plotly would show from far below to far above."""
    heights = {one.y + sign * one.y_spread for one in marks for sign in (-1, 1)}
    if len(heights) != 1:
        return {}
    (height,) = heights
    room = 0.02 * abs(height) or 1.0
    return {"range": [height - room, height + room]}


def _error_bar(length: float) -> dict[str, Any]:
    return {"type": "data", "array": [length], "visible": length > 0, "thickness": 1.3, "width": 4}


def _scale(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis where values differ by more than ten times, with numbers written out at its ticks."""
    low, high = min(values, default=1), max(values, default=1)
    if low <= 0 or high <= 10 * low:
        return {"zeroline": False}
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return {
        "type": "log",
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [significant(tick, 1) for tick in ticks],
    }


def bars(
    title: str,
    labels: Sequence[str],
    values: Sequence[float],
    *,
    x_title: str,
    x_format: str = "",
    groups: Sequence[str] = (),
    **about: Any,
) -> Chart:
    """One horizontal bar a label, the first on top.

    Args:
        labels: each once.
        groups: of each bar; bars of a group share a colour, and the legend names the groups.
    """
    groups = groups or [""] * len(labels)
    shown = [plain(label) for label in labels]
    traces = []
    for number, group in enumerate(dict.fromkeys(groups)):
        members = [i for i, other in enumerate(groups) if other == group]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": plain(group),
                "x": [values[i] for i in members],
                "y": [shown[i] for i in members],
                "marker": {"color": colour(number)},
                "hovertemplate": f"%{{y}}: %{{x:{x_format or '.3g'}}}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {
            "title": {"text": x_title},
            "tickformat": x_format,
            "rangemode": "tozero",
            "nticks": 6,
            "tickangle": 0,
        },
        "yaxis": _categories(shown),
        "showlegend": any(groups),
        "barmode": "overlay",
        "bargap": 0.35,
    }
    described = ", ".join(f"{label} {value:.3g}" for label, value in zip(labels, values, strict=True))
    height = 90 + 20 * len(labels)
    about = {"height": height, "description": f"{title}: {described}.", **about}
    return Chart(title, traces, layout, **about)


def stacked_bars(
    title: str, labels: Sequence[str], parts: Mapping[str, Sequence[float]], *, x_title: str, **about: Any
) -> Chart:
    """One horizontal bar a label, made of named parts; the sum stands at its end."""
    shown = [plain(label) for label in labels]
    first = 2  # leaves the first colours to series, so that a part is not taken for a model
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(part),
            "x": list(values),
            "y": shown,
            "marker": {
                "color": colour(first + number),
                "pattern": {
                    "shape": "" if number == 0 else "/",
                    "fillmode": "overlay",
                    "solidity": 0.25,
                    "size": 6,
                },
            },
            "hovertemplate": f"%{{y}}<br>{plain(part)}: %{{x:.3g}} {x_title}<extra></extra>",
        }
        for number, (part, values) in enumerate(parts.items())
    ]
    totals = [sum(values) for values in zip(*parts.values(), strict=True)]
    traces.append(
        {
            "type": "scatter",
            "mode": "text",
            "x": totals,
            "y": shown,
            "text": [f" {significant(total)}" for total in totals],
            "textposition": "middle right",
            "textfont": {"color": "var(--ink)", "size": 13},
            "cliponaxis": False,
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )
    layout = {
        "xaxis": {
            "title": {"text": x_title},
            "rangemode": "tozero",
            "range": [0, 1.18 * max(totals, default=1)],
        },
        "yaxis": _categories(shown),
        "barmode": "stack",
        "bargap": 0.4,
    }
    described = ", ".join(
        f"{label} {total:.3g} {x_title}" for label, total in zip(labels, totals, strict=True)
    )
    height = 130 + 52 * len(labels)
    about = {"height": height, "description": f"{title}: {described}.", **about}
    return Chart(title, traces, layout, **about)


def _whole_steps(series: Sequence[Series]) -> dict[str, Any]:
    """A tick at each step where there are few, so that none stands between two."""
    longest = max((len(one.x) for one in series), default=0)
    return {"dtick": 1} if longest <= 12 else {}


def _categories(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(labels),
        "autorange": "reversed",
        "automargin": True,
        "showgrid": False,
        "ticksuffix": "  ",
    }


def _last(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{known[-1]:.3g}" if known else "nothing"
