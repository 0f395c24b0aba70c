"""neuromix run: an `.nmx` file on the event-driven engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuromix.cli.console import print_json, print_rows, progress
from neuromix.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from neuromix.runtime.session import Network

_SHOWN = 10  # predictions that are printed


def command(
    file: Annotated[Path, typer.Argument(help="An .nmx file.", metavar="FILE")],
    source: Annotated[
        Path,
        typer.Option(
            "--input", help="A .npy file: [C,H,W] or [B,C,H,W]; with --frames [T,C,H,W] or [B,T,C,H,W]."
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="A .npy file for the outputs, [K] or [B,K].")] = None,
    time_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="How often an input is shown. [default: as the model was trained]", show_default=False
        ),
    ] = None,
    frames: Annotated[bool, typer.Option("--frames", help="The input has one frame a time step.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads; the answer does not depend on them.")] = 1,
    with_report: Annotated[
        bool, typer.Option("--report", help="Tell what each layer did in the last sample.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object: samples, predictions, seconds_per_sample, report, ..."
        ),
    ] = False,
) -> None:
    """Run a network on the event-driven engine, sample by sample.

    Inputs are as the model was trained on them: normalised, float32.

    \b
    Example:
      neuromix export runs/a -o net.nmx
      neuromix run net.nmx --input x.npy --output y.npy --threads 2
    """
    from neuromix.runtime.session import load

    if frames and time_steps is not None:
        raise ConfigError("--time-steps is for inputs without --frames, which are shown again and again")
    x = _read(source)
    network = load(file)
    samples, is_batch = _samples(x, network, frames, source)
    session = network.session(threads=threads)
    results = []
    with progress() as display:
        bar = display.add_task("running", total=len(samples))
        start = time.perf_counter()
        for sample in samples:
            results.append(session.run(sample, time_steps))
            display.advance(bar)
        seconds = (time.perf_counter() - start) / len(samples)
    about = _about(network, results, seconds)
    if output is not None:
        _write(output, results, is_batch)
        about["output"] = str(output)
    if with_report:
        about["report"] = session.report()
    if as_json:
        print_json(about)
    else:
        _print(about)


def _read(path: Path) -> NDArray[np.float32]:
    import numpy as np

    from neuromix.core.arrays import DamagedArrayError, load_arrays

    if not path.is_file():
        raise DataError(f"no input file at {path}")
    try:
        x = load_arrays(path)
    except DamagedArrayError as error:
        raise DataError(f"{path} is damaged or not a .npy file of numbers: {error}") from error
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub":
        raise DataError(f"{path} must hold one array of real numbers")
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise DataError(f"{path} holds numbers that are not finite")
    return x


def _samples(
    x: NDArray[np.float32], network: Network, frames: bool, path: Path
) -> tuple[NDArray[np.float32], bool]:
    """The samples on the first axis, and whether the file has such an axis."""
    dims = 4 if frames else 3
    if x.shape[-3:] != network.input_shape or x.ndim not in (dims, dims + 1) or 0 in x.shape:
        sides = ",".join(map(str, network.input_shape))
        lead = "T," if frames else ""
        hint = "" if frames or x.ndim != 5 else "; --frames takes one frame a time step"
        raise DataError(f"{path} is {list(x.shape)}; expected [{lead}{sides}] or [B,{lead}{sides}]{hint}")
    return (x, True) if x.ndim > dims else (x[None], False)


def _write(path: Path, results: list[Any], is_batch: bool) -> None:
    import numpy as np

    from neuromix.core.files import replacing

    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.stack(results) if is_batch else results[0])


def _about(network: Network, results: list[Any], seconds: float) -> dict[str, Any]:
    best = [int(result.argmax()) for result in results]
    return {
        "samples": len(results),
        "predictions": best,
        "classes": [network.classes[number] for number in best] if network.classes else [],
        "seconds_per_sample": seconds,
    }


def _print(about: dict[str, Any]) -> None:
    shown = (about["classes"] or about["predictions"])[:_SHOWN]
    more = f" and {about['samples'] - _SHOWN} more" if about["samples"] > _SHOWN else ""
    rows: list[tuple[str, object]] = [
        ("samples", about["samples"]),
        ("largest output", ", ".join(map(str, shown)) + more),
        ("milliseconds a sample", f"{about['seconds_per_sample'] * 1e3:.3f}"),
    ]
    print_rows(rows + ([("output", about["output"])] if "output" in about else []))
    if about.get("report"):
        _print_report(about["report"])


def _print_report(nodes: list[dict[str, Any]]) -> None:
    from neuromix.cli.tables import Table

    columns = list(nodes[0])
    numbers = [name for name in columns if isinstance(nodes[0][name], int | float)]
    table = Table(*columns, numbers=numbers)
    for node in nodes:
        cells = [node.get(name, "") for name in columns]
        table.add(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    table.print()
