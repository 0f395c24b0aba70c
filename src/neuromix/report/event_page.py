"""The HTML page that `neuromix data events --plot` writes."""

from __future__ import annotations

from dataclasses import replace

from neuromix.data.events.summary import rates, shades, summary
from neuromix.data.events.transforms import resized
from neuromix.data.events.value import Events
from neuromix.report import numbers
from neuromix.report.blocks import Chart, Page, Section, Tile, Tiles
from neuromix.report.charts import Series, lines
from neuromix.report.heatmaps import image

LARGEST = 256  # pixels that the longer side of a frame is shown with


def event_page(name: str, events: Events, frames: int) -> Page:
    """The page of a recording.

    Args:
        name: of its file.
        frames: pictures of equal durations.
    """
    about = summary(events)
    tiles = [
        Tile("events", numbers.count(about.events)),
        Tile("duration", numbers.duration(about.duration)),
        Tile("sensor", f"{about.height} x {about.width}", "pixels, height by width"),
        Tile("rate", f"{numbers.count(about.rate)}/s"),
        Tile("ON events", numbers.percent(about.on_share)),
    ]
    middle_S, rates_PS = rates(events)
    series = [
        Series(name, middle_S.tolist(), rates_PS[row].tolist()) for row, name in ((1, "ON"), (0, "OFF"))
    ]
    over_time = lines("Events over time", series, x_title="seconds", y_title="events a second", span="full")
    signed_THW = ((shades(_fitted(events), frames) * 0.5).diff(dim=1)[:, 0] + 0.5).numpy().round(3)
    pictures = [_picture(f"{k} of {len(signed_THW)}", one.tolist()) for k, one in enumerate(signed_THW, 1)]
    part = numbers.duration(about.duration / len(pictures))
    return Page(
        title=name,
        kicker="neuromix data events",
        lead=f"{about.events:,} events of an event camera, from the first to the last.",
        sections=[
            Section("Figures", [Tiles(tiles), over_time]),
            Section("Frames", pictures, intro=f"Each shows {part}, in the colours of the curves."),
        ],
    )


def _fitted(events: Events) -> Events:
    """The events on a sensor that is small enough for a page."""
    scale = min(1.0, LARGEST / max(events.height, events.width))
    return resized(events, max(1, round(scale * events.height)), max(1, round(scale * events.width)))


def _picture(title: str, pixels: list[list[float]]) -> Chart:
    """A frame with 0 for OFF, 0.5 for nothing and 1 for ON."""
    chart = image(title, pixels, span="third")
    scale = [[0, "var(--series-2)"], [0.5, "var(--well)"], [1, "var(--series-1)"]]
    return replace(chart, data=[{**chart.data[0], "colorscale": scale, "zmin": 0, "zmax": 1}])
