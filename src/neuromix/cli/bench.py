"""neuromix bench: measures against peers, side by side."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from neuromix.cli.console import print_json, print_rows, progress, report
from neuromix.core.errors import ConfigError, UnknownNameError

BENCHES = {
    "lif": "neuromix.bench.lif",
    "train-step": "neuromix.bench.train_step",
    "runtime": "neuromix.bench.runtime",
    "scan": "neuromix.bench.scan",
    "generate": "neuromix.bench.generate",
}


def command(
    name: Annotated[str, typer.Argument(help=f"What to measure: {', '.join(BENCHES)}.")],
    rounds: Annotated[int | None, typer.Option(help="Times that each contestant is measured.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of each contestant.")] = 2,
    neurons: Annotated[
        list[int] | None, typer.Option(help="lif: width of the linear set-up; give it again for more.")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(help="scan, generate: tokens; give it again for more.")
    ] = None,
    set_up: Annotated[list[str] | None, typer.Option(help="lif: vision or linear; both by default.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: ratios, measurements, environment.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
) -> None:
    """Measure against peers: each contestant in its own process, in turn, medians and ratios.

    A ratio A_over_B is the time of A over the time of B: above 1, B is faster. Peers that are not installed are
    left out.

    \b
    Examples:
      neuromix bench lif --rounds 5 --set-up vision
      neuromix bench scan --rounds 1 --length 256
    """
    if name not in BENCHES:
        raise UnknownNameError("benchmark", name, BENCHES)
    options: dict[str, Any] = {"rounds": rounds, "neurons": neurons, "set_ups": set_up, "lengths": length}
    options = {key: value for key, value in options.items() if value is not None}
    sizes = [threads, *(neurons or ()), *(length or ()), *(() if rounds is None else (rounds,))]
    if min(sizes) < 1:
        raise ConfigError("rounds, threads, neurons and length must be at least 1")
    if name != "lif" and (neurons or set_up):
        raise ConfigError(f"--neurons and --set-up are for lif, not for {name}")
    if name not in ("scan", "generate") and length:
        raise ConfigError(f"--length is for scan and generate, not for {name}")
    unknown = set(set_up or ()) - {"vision", "linear"}
    if unknown:
        raise UnknownNameError("set-up", min(unknown), ("vision", "linear"))
    with progress() as display:
        task = display.add_task(name, total=None)

        def on_turn(contestant: str) -> None:
            display.update(task, description=f"{name}: {contestant}")

        result = importlib.import_module(BENCHES[name]).run(threads=threads, on_turn=on_turn, **options)
    for contestant, why in result.missing.items():
        report(f"without {contestant}: {why}")
    if out is not None:
        from neuromix.core.files import write_json

        write_json(out, result.to_dict())
    if as_json:
        print_json(result.to_dict())
    else:
        print_rows(list(result.ratios.items()))
