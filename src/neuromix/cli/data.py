"""neuromix data: looks at data files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from neuromix.cli.console import print_json, print_rows, report
from neuromix.core.errors import ConfigError

if TYPE_CHECKING:
    from neuromix.data.events import Events

group = typer.Typer(
    help="""Look at data files.

    \b
    Example:
      neuromix data events recording.npz --plot recording.html
    """,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@group.callback()
def _group() -> None:
    pass


@group.command("events")
def events(
    file: Annotated[
        Path,
        typer.Argument(help="A .bin, .aedat, .aedat4, .h5, .npy, .npz, .csv or .txt file.", metavar="FILE"),
    ],
    plot: Annotated[
        Path | None, typer.Option(help="Draw frames, and events over time, as a .png or .html file.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames that are drawn, of equal durations.")] = 6,
    record: Annotated[
        int | None, typer.Option(min=0, help="Number of the recording, in a .h5 file.", show_default=False)
    ] = None,
    sensor: Annotated[
        str | None,
        typer.Option(
            metavar="H,W", help="Size of the sensor. [default: what the file says, or its pixels need]"
        ),
    ] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Bring the events into the order of time.")] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object: events, duration (s), height, width, rate (1/s), on_share."
        ),
    ] = False,
) -> None:
    """Tell what a file of events holds, and draw it.

    \b
    Examples:
      neuromix data events recording.npz
      neuromix data events shd_test.h5 --record 3 --plot word.png
    """
    from neuromix.data.events import read_events
    from neuromix.data.events.summary import summary

    writer = None if plot is None else _writer(plot)
    found = read_events(file, record=record, sensor=_parse_sensor(sensor), sort=sort)
    about = summary(found)
    if plot is not None and writer is not None:
        writer(plot, file.name, found, frames)
        report(f"written: {plot}")
    if as_json:
        print_json({"file": str(file), **about._asdict()})
        return
    print_rows(
        [
            ("events", about.events),
            ("duration, seconds", about.duration),
            ("sensor, height x width", f"{about.height} x {about.width}"),
            ("events a second", "-" if about.rate is None else round(about.rate)),
            ("share of ON events", about.on_share),
        ]
    )


def _parse_sensor(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = [int(side) for side in text.split(",") if side.strip().isdecimal()]
    if len(sides) != 2 or len(text.split(",")) != 2:
        raise ConfigError(f"--sensor gives H,W as whole numbers with a comma, as 128,128; got {text!r}")
    return sides[0], sides[1]


_Writer: TypeAlias = "Callable[[Path, str, Events, int], None]"  # (file, title, events, frames)


def _writer(plot: Path) -> _Writer:
    """What writes such a file; a wrong suffix is told before anything is read."""
    writers: dict[str, _Writer] = {".png": _write_png, ".html": _write_html}
    if plot.suffix.lower() not in writers:
        raise ConfigError(f"--plot writes {' or '.join(writers)} files; got {plot}")
    return writers[plot.suffix.lower()]


def _write_png(path: Path, title: str, found: Events, frames: int) -> None:
    from neuromix.data.events.summary import write_picture

    write_picture(path, found, frames)


def _write_html(path: Path, title: str, found: Events, frames: int) -> None:
    from neuromix.core.files import write_text
    from neuromix.report.event_page import event_page
    from neuromix.report.page import render

    write_text(path, render(event_page(title, found, frames)))
