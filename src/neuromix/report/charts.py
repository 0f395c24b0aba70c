"""Charts from plain data: lines, bars, stacked bars and spike rasters.

Each takes any number of series, so that one figure shows two models or ten, one seed or five.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuromix.report.blocks import Chart
from neuromix.report.numbers import significant

COLOURS = 6  # series colours that the style sheet has; they stay apart for colour-blind readers too
DASHES = ("solid", "dot", "dash", "dashdot")


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


def colour(number: int) -> str:
    """The colour of the series `number`, counted from 0."""
    return f"var(--series-{number % COLOURS + 1})"


def lines(
    title: str, series: Sequence[Series], *, x_title: str, y_title: str, y_format: str = "", **about: Any
) -> Chart:
    """Curves over a common axis.

    Args:
        y_format: d3 format of the y axis, e.g. ".0%".
        about: further fields of Chart.
    """
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": one.name,
            "x": list(one.x),
            "y": list(one.y),
            # The dash tells series apart without colour.
            "line": {"color": colour(number), "width": 2.5, "dash": DASHES[number % len(DASHES)]},
            "marker": {"color": colour(number), "size": 5},
            "hovertemplate": f"%{{y{':' + y_format if y_format else ':.3g'}}}<extra>{one.name}</extra>",
        }
        for number, one in enumerate(series)
    ]
    layout = {
        "xaxis": {"title": {"text": x_title}, **_whole_steps(series)},
        "yaxis": {"title": {"text": y_title}, "tickformat": y_format},
        "hovermode": "x unified",
    }
    described = "; ".join(f"{one.name} ends at {_last(one.y)}" for one in series)
    return Chart(title, traces, layout, **{"description": f"{title}: {described}.", **about})


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
    traces = []
    for number, group in enumerate(dict.fromkeys(groups)):
        members = [i for i, other in enumerate(groups) if other == group]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": group,
                "x": [values[i] for i in members],
                "y": [labels[i] for i in members],
                "marker": {"color": colour(number)},
                "hovertemplate": f"%{{y}}: %{{x{':' + x_format if x_format else ''}}}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": x_title}, "tickformat": x_format, "rangemode": "tozero"},
        "yaxis": _categories(labels),
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
    first = 2  # leaves the first colours to series, so that a part is not taken for a model
    traces: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "x": list(values),
            "y": list(labels),
            "marker": {
                "color": colour(first + number),
                "pattern": {
                    "shape": "" if number == 0 else "/",
                    "fillmode": "overlay",
                    "solidity": 0.25,
                    "size": 6,
                },
            },
            "hovertemplate": f"%{{y}}<br>{part}: %{{x:.3g}} {x_title}<extra></extra>",
        }
        for number, (part, values) in enumerate(parts.items())
    ]
    totals = [sum(values) for values in zip(*parts.values(), strict=True)]
    traces.append(
        {
            "type": "scatter",
            "mode": "text",
            "x": totals,
            "y": list(labels),
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
        "yaxis": _categories(labels),
        "barmode": "stack",
        "bargap": 0.4,
    }
    described = ", ".join(
        f"{label} {total:.3g} {x_title}" for label, total in zip(labels, totals, strict=True)
    )
    height = 130 + 52 * len(labels)
    about = {"height": height, "description": f"{title}: {described}.", **about}
    return Chart(title, traces, layout, **about)


@dataclass(frozen=True)
class SpikeTrain:
    """Spikes of some neurons of one layer: `spikes[t][n]`, 0 for silence."""

    name: str
    neurons: int  # that the layer has; `spikes` may show fewer
    spikes: Sequence[Sequence[int]]


def raster(title: str, trains: Sequence[SpikeTrain], **about: Any) -> Chart:
    """One panel a layer side by side: time steps to the right, neurons upwards, a mark where one fired."""
    traces, annotations, layout = [], [], {}
    for number, train in enumerate(trains):
        suffix = str(number + 1) if number else ""
        start, end = number / len(trains), (number + 1) / len(trains)
        gap = 0.14 / len(trains)
        steps = len(train.spikes)
        traces.append(
            {
                "type": "heatmap",
                "z": [list(row) for row in zip(*train.spikes, strict=True)],
                "x": list(range(1, steps + 1)),
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "zmin": 0,
                "zmax": 1,
                "colorscale": [[0, "var(--well)"], [1, "var(--series-1)"]],
                "showscale": False,
                "xgap": 2,
                "hovertemplate": f"{train.name}<br>step %{{x}}, neuron %{{y}}: %{{z}}<extra></extra>",
            }
        )
        layout[f"xaxis{suffix}"] = {
            "domain": [start + gap / 2, end - gap / 2],
            "dtick": 1,
            "showgrid": False,
            "ticks": "",
            "anchor": f"y{suffix}",
        }
        layout[f"yaxis{suffix}"] = {"visible": False, "anchor": f"x{suffix}"}
        share = _share(train.spikes)
        annotations.append(
            {
                "text": f"{train.name}<br><b>{100 * share:.0f} %</b>",
                "x": (start + end) / 2,
                "y": 1,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "center",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 11, "color": "var(--muted)"},
            }
        )
    whole = {**layout, "annotations": annotations, "margin": {"l": 4, "r": 4, "t": 44, "b": 28}}
    described = ", ".join(f"{train.name} {100 * _share(train.spikes):.0f} %" for train in trains)
    about = {"height": 380, "description": f"{title}; share of marks: {described}.", **about}
    return Chart(title, traces, whole, **about)


def image(title: str, pixels: Sequence[Sequence[float]], **about: Any) -> Chart:
    """A grey-scale picture, the first row on top."""
    trace = {
        "type": "heatmap",
        "z": [list(row) for row in pixels],
        "colorscale": [[0, "var(--well)"], [1, "var(--ink)"]],
        "showscale": False,
        "hoverinfo": "skip",
    }
    layout = {
        "xaxis": {"visible": False, "constrain": "domain"},
        "yaxis": {"visible": False, "autorange": "reversed", "scaleanchor": "x"},
        "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
    }
    return Chart(title, [trace], layout, **{"height": 220, "description": title, **about})


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


def _share(spikes: Sequence[Sequence[int]]) -> float:
    values = [value for row in spikes for value in row]
    return sum(value != 0 for value in values) / len(values) if values else 0.0


def _last(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{known[-1]:.3g}" if known else "nothing"
