"""neuromix demo: a spiking network and its analog twin, trained, measured, deployed and reported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuromix.cli.console import print_json, progress, report
from neuromix.cli.train import Watch

if TYPE_CHECKING:
    from neuromix.report.demo import Demo
    from neuromix.report.deployed import Deployment


def command(
    out: Annotated[Path, typer.Option(help="Folder for the report and the runs.")] = Path("demo"),
    epochs: Annotated[
        int | None, typer.Option(help="Times through the training data, for each network.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all chance; the same seed gives the same weights.")] = 0,
    time_steps: Annotated[int, typer.Option(help="Of the spiking network.")] = 4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the demo in --out.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: spiking, analog, runtime, report.")
    ] = False,
) -> None:
    """Train a spiking network and its analog twin on handwritten digits; report accuracy, energy and speed.

    It takes about two minutes on two cores. --out gets report.html, demo.json, both runs, and the spiking network as
    float32.nmx and int8.nmx.

    \b
    Example:
      neuromix demo --out demo
    """
    from neuromix.report.demo import EPOCHS, run_demo
    from neuromix.training.signals import Interrupted

    try:
        with progress() as display:
            demo = run_demo(
                out,
                epochs=EPOCHS if epochs is None else epochs,
                seed=seed,
                time_steps=time_steps,
                overwrite=overwrite,
                observer=Watch(display),
            )
    except Interrupted as stop:
        report("interrupted; neuromix demo --overwrite starts afresh")
        raise typer.Exit(128 + stop.number) from None
    if as_json:
        print_json(demo.record)
    else:
        _print(demo)


def _print(demo: Demo) -> None:
    """A column a network, then where the page is."""
    from neuromix.cli.tables import Table
    from neuromix.report.comparison import figures

    shown = figures(demo.models)
    table = Table(*shown.columns, numbers=shown.columns[1:])
    for row in shown.rows:
        table.add(*row)
    table.print()
    if demo.deployment is not None:
        _print_deployment(demo.deployment)
    print(f"report  {demo.record['report']}")


def _print_deployment(deployment: Deployment) -> None:
    from neuromix.cli.tables import Table

    table = Table("On one thread", "One image", "Accuracy", "Same answer", numbers=["One image", "Accuracy"])
    table.add("PyTorch", f"{deployment.pytorch_milliseconds:.2f} ms", "", "")
    for name, program in {"float32": deployment.float32, "int8": deployment.int8}.items():
        time, right = f"{program.milliseconds:.2f} ms", f"{100 * program.accuracy:.1f} %"
        table.add(f"Engine, {name}", time, right, f"{100 * program.same_class:.1f} %")
    table.print()
