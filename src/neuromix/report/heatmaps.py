"""Heat maps from plain data: spike rasters, confusion matrices and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from neuromix.measure.spikes import SpikeTrain
from neuromix.report.blocks import Chart
from neuromix.report.marks import plain

_PANELS = 6  # of a raster side by side
_MOST_CLASSES = 20  # of a confusion matrix with numbers in it


def raster(title: str, trains: Sequence[SpikeTrain], **about: Any) -> Chart:
    """One panel a layer: time steps to the right, neurons upwards, a mark where one fired."""
    columns = max(1, min(len(trains), _PANELS))
    rows = math.ceil(len(trains) / columns)
    traces: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    layout: dict[str, Any] = {}
    for number, train in enumerate(trains):
        suffix = str(number + 1) if number else ""
        row, column = divmod(number, columns)
        left, right = _part(column, columns, gap=0.14)
        bottom, top = _part(rows - 1 - row, rows, gap=0.0 if rows == 1 else 0.3)
        traces.append({**_panel(train), "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
        layout[f"xaxis{suffix}"] = {
            "domain": [left, right],
            "dtick": max(1, len(train.spikes) // 8),
            "showgrid": False,
            "ticks": "",
            "anchor": f"y{suffix}",
        }
        layout[f"yaxis{suffix}"] = {"domain": [bottom, top], "visible": False, "anchor": f"x{suffix}"}
        annotations.append(
            {
                "text": f"{plain(_shortened(train.name))}<br><b>{100 * _share(train.spikes):.0f} %</b>",
                "x": (left + right) / 2,
                "y": top,
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
    description = f"{title}; share of marks: {described}."
    about = {"height": 380 if rows < 2 else 260 * rows, "description": description, **about}
    return Chart(title, traces, whole, **about)


def _panel(train: SpikeTrain) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": [list(row) for row in zip(*train.spikes, strict=True)],
        "x": list(range(1, len(train.spikes) + 1)),
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "var(--well)"], [1, "var(--series-1)"]],
        "showscale": False,
        "xgap": 2 if len(train.spikes) <= 32 else 0,
        "hovertemplate": f"{plain(train.name)}<br>step %{{x}}, neuron %{{y}}: %{{z}}<extra></extra>",
    }


def _part(number: int, of: int, gap: float) -> tuple[float, float]:
    """Start and end of one of the equal parts of [0, 1]; `gap` is the share of a part that stays free."""
    return (number + gap / 2) / of, (number + 1 - gap / 2) / of


def confusion(title: str, counts: Sequence[Sequence[float]], names: Sequence[str], **about: Any) -> Chart:
    """A heat map: a row a true class, a column an answer; the colour is the share of the row."""
    shown = [plain(name) for name in names]
    sums = [sum(row) for row in counts]
    shares = [
        [cell / total if total else 0.0 for cell in row] for row, total in zip(counts, sums, strict=True)
    ]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": shares,
        "x": shown,
        "y": shown,
        "customdata": [list(row) for row in counts],
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "var(--well)"], [1, "var(--heat)"]],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "true %{y}, answered %{x}: %{customdata:,} (%{z:.1%} of the class)<extra></extra>",
    }
    if len(names) <= _MOST_CLASSES:  # nothing where there is nothing, so that the errors stand out
        trace |= {"text": [[f"{cell:,.0f}" if cell else "" for cell in row] for row in counts]}
        trace |= {"texttemplate": "%{text}", "textfont": {"color": "var(--ink)"}}
    axis = {"type": "category", "showgrid": False, "constrain": "domain"}
    layout = {
        "xaxis": {**axis, "title": {"text": "answer"}},
        "yaxis": {**axis, "title": {"text": "true class"}, "autorange": "reversed", "scaleanchor": "x"},
    }
    right = sum(row[i] for i, row in enumerate(counts))
    described = (
        f"{title}: {right:,.0f} of {sum(sums):,.0f} answers are right. "
        f"Most frequent errors: {_errors(counts, names)}."
    )
    about = {"height": 420, "square": True, "description": described, **about}
    return Chart(title, [trace], layout, **about)


def _errors(counts: Sequence[Sequence[float]], names: Sequence[str], most: int = 3) -> str:
    wrong = sorted(
        ((cell, i, j) for i, row in enumerate(counts) for j, cell in enumerate(row) if i != j and cell),
        key=lambda found: -found[0],
    )
    told = [f"{names[i]} taken for {names[j]} ({cell:,.0f})" for cell, i, j in wrong[:most]]
    return ", ".join(told) or "none"


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


def _share(spikes: Sequence[Sequence[int]]) -> float:
    values = [value for row in spikes for value in row]
    return sum(value != 0 for value in values) / len(values) if values else 0.0


def _shortened(name: str, most: int = 14) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
