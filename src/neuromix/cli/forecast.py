"""neuromix forecast: what a trained run expects after the end of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuromix.cli.console import print_json, print_rows, report
from neuromix.core.errors import ConfigError

if TYPE_CHECKING:
    from neuromix.tasks.forecast import Forecast


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run of the task forecasting.")],
    data: Annotated[
        str, typer.Option(help="A CSV file with the columns that the run was trained on, or waves.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A CSV file for the forecast. [default: print it]", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw past and forecast of every variate, as an .html file.")
    ] = None,
    backtest: Annotated[
        bool,
        typer.Option(
            "--backtest", help="Hold the last rows of the file back, forecast these, and tell the error."
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object: dates, columns, forecast, quantiles, errors."),
    ] = False,
) -> None:
    """Forecast what follows the last row of a file, in the units of the file.

    Dates go on as in the file. The data that the run was trained on are not needed. With quantiles, each column has one
    more for each of them: OT_q0.1.

    \b
    Examples:
      neuromix train --task forecasting --model s_mamba --set horizon=24 --epochs 1 --out runs/f
      neuromix forecast runs/f --data waves -o next.csv
      neuromix forecast runs/f --data waves --backtest --plot next.html
    """
    from neuromix.core.files import write_text
    from neuromix.tasks.forecast import forecast_run

    if plot is not None and plot.suffix.lower() != ".html":
        raise ConfigError(f"--plot writes an .html file; got {plot}")
    found = forecast_run(run, data, backtest=backtest)
    if plot is not None:
        from neuromix.report.forecast_page import forecast_page
        from neuromix.report.page import render

        write_text(plot, render(forecast_page(run.name, found)))
        report(f"written: {plot}")
    if output is not None:
        write_text(output, _csv(found))
        report(f"written: {output}")
    if as_json:
        print_json(_about(found))
    elif found.truth is not None:
        rows = found.errors()
        print_rows([(f"{name} {key}", value) for name, error in rows.items() for key, value in error.items()])
    elif output is None and plot is None:
        print(_csv(found), end="")


def _csv(found: Forecast) -> str:
    import csv
    import io

    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(_lines(found))
    return file.getvalue()


def _lines(found: Forecast) -> Iterator[list[str]]:
    """The header, and a line a date; every variate with its quantiles beside it."""
    columns = found.expected.columns
    yield [
        "date",
        *(name + told for name in columns for told in ("", *(f"_q{q:g}" for q in found.quantiles))),
    ]
    tables = (found.expected.values, *found.quantiles.values())
    for row, date in enumerate(_dates(found)):
        yield [date, *(f"{values[row, i]:.7g}" for i in range(len(columns)) for values in tables)]


def _dates(found: Forecast) -> list[str]:
    return [str(time).replace("T", " ") for time in found.expected.times]


def _about(found: Forecast) -> dict[str, Any]:
    return {
        "dates": _dates(found),
        "columns": list(found.expected.columns),
        "forecast": found.expected.values.tolist(),
        "quantiles": {f"{q:g}": values.tolist() for q, values in found.quantiles.items()},
        "errors": found.errors(),
    }
